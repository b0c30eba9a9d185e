"""Parses the platform's responses; a proxy's page or a truncated body is a ValueError."""

from typing import Any

from urllib3 import BaseHTTPResponse

from adapters.items.stored import Record


def record(response: BaseHTTPResponse) -> Record:
    """An item."""
    return records([response.json()])[0]


def records(found: Any) -> list[Record]:
    """Items or annotations, each with its id."""
    if not isinstance(found, list):
        raise ValueError("no list")
    if not all(isinstance(one, dict) and isinstance(one.get("id"), str) for one in found):
        raise ValueError("something without an id")
    return found


def page(response: BaseHTTPResponse) -> tuple[list[Record], bool]:
    """The records of a page, and whether there are more."""
    page = response.json()
    more = page.get("hasNextPage") if isinstance(page, dict) else None
    if not isinstance(more, bool):
        raise ValueError("no page")
    items = records(page.get("items"))
    if more and not items:
        raise ValueError("an empty page before others")
    return items, more


def count(response: BaseHTTPResponse) -> int:
    """How many a query finds."""
    page = response.json()
    total = page.get("totalItemsCount") if isinstance(page, dict) else None
    if not isinstance(total, int):
        raise ValueError("no count")
    return total


def if_any(response: BaseHTTPResponse) -> Any:
    """A body of any kind; None where it is empty."""
    return response.json() if response.data else None
