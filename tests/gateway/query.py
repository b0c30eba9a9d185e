"""The platform's query language (DQL): filter, join, sort and pages over records."""

import math
import operator
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from tests.gateway.store import Record, Refusal, Store

_COMPARISONS = {"$gt": operator.gt, "$gte": operator.ge, "$lt": operator.lt, "$lte": operator.le}


def values(record: Any, path: str) -> list[Any]:
    """All values at a dotted path; lists on the way, and at its end, are looked into."""
    found = [record]
    for key in path.split("."):
        inner = [one for value in found for one in (value if isinstance(value, list) else [value])]
        found = [value[key] for value in inner if isinstance(value, dict) and key in value]
    return found + [one for value in found if isinstance(value, list) for one in value]


@lru_cache(maxsize=1024)
def _glob(pattern: str) -> re.Pattern[str]:
    # Not fnmatch: only * is a wildcard, [ and ? stand for themselves. It crosses "/".
    return re.compile(".*".join(re.escape(part) for part in re.split(r"\*+", pattern)) + r"\Z", re.DOTALL)


def _equal(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, str) and "*" in wanted and isinstance(value, str):
        return _glob(wanted).match(value) is not None
    return value == wanted


def _compare(compare: Callable[[Any, Any], bool], value: Any, bound: Any) -> bool:
    try:
        return compare(value, bound)
    except TypeError:  # a text is neither above nor below a number
        return False


def _holds(found: list[Any], name: str, wanted: Any) -> bool:
    """Whether one operator holds for the values found at a field."""
    if name == "$eq" or name == "$glob":
        return (wanted is None and not found) or any(_equal(value, wanted) for value in found)
    if name == "$ne":
        return not _holds(found, "$eq", wanted)
    if name == "$in":  # Among many, a search for the same value is much faster than one for each.
        patterns = [one for one in wanted if one is None or "*" in str(one)]
        return any(value in wanted for value in found) or any(_holds(found, "$eq", one) for one in patterns)
    if name == "$nin":
        return not _holds(found, "$in", wanted)
    if name == "$exists":
        return bool(found) == bool(wanted)
    if name == "$match":
        return any(isinstance(value, dict) and matches(value, wanted) for value in found)
    if name in _COMPARISONS:
        return any(_compare(_COMPARISONS[name], value, wanted) for value in found)
    raise Refusal(400, f"Unknown filter operator {name}")


def matches(record: Record, condition: Record) -> bool:
    """Whether a record fulfils a filter such as `{"$and": [{"name": "a*"}, {"size": {"$gt": 3}}]}`."""
    for field, wanted in condition.items():
        if field == "$and":
            holds = all(matches(record, part) for part in wanted)
        elif field == "$or":
            holds = any(matches(record, part) for part in wanted)
        elif isinstance(wanted, dict) and any(key.startswith("$") for key in wanted):
            found = values(record, field)
            holds = all(_holds(found, name, value) for name, value in wanted.items())
        else:
            holds = _holds(values(record, field), "$eq", wanted)
        if not holds:
            return False
    return True


def _joins(store: Store, record: Record, join: Record | None) -> bool:
    if not join:
        return True
    on = join["on"]
    related = store.tables[on["resource"]].values()
    key = record.get(on["forigen"])  # the SDK's spelling
    return any(row.get(on["local"]) == key and matches(row, join["filter"]) for row in related)


def select(store: Store, records: Iterable[Record], query: Record) -> list[Record]:
    """The records that a query body (`filter`, `join`, `sort`) asks for, in its order."""
    condition = query.get("filter") or {}
    chosen = [r for r in records if matches(r, condition) and _joins(store, r, query.get("join"))]
    for field, direction in reversed((query.get("sort") or {}).items()):
        chosen.sort(key=lambda record: _sort_key(record, field), reverse=direction == "descending")
    return chosen


def _sort_key(record: Record, field: str) -> tuple[str, Any]:
    first = next(iter(values(record, field)), None)
    return ("", 0) if first is None else (type(first).__name__, first)


def page(records: list[Record], query: Record) -> Record:
    """One page of the records, with the counts that the SDK's paged entities read."""
    number, size = query.get("page", 0), query.get("pageSize", 1000)
    pages = math.ceil(len(records) / size) if size else 0
    return {
        "items": records[number * size : (number + 1) * size],
        "totalItemsCount": len(records),
        "totalPagesCount": pages,
        "hasNextPage": number + 1 < pages,
    }
