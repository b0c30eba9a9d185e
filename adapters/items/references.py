"""References to retrieved context: the items that a search has found for the questions of an item.

They are in a prompt's metadata (`nearestItems`), or in the `context` of a trace's message. Pure.
"""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapters.items import traces
from adapters.items.stored import get_path, text_at

logger = logging.getLogger(__name__)

# An id becomes part of a request's path.
ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
# References of one question at most; further ones are ignored.
MAX_SOURCES = 64


@dataclass(frozen=True, slots=True)
class Source:
    """A fetched item: its text and its metadata."""

    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reference:
    """A reference to an item; in a trace it may have the text itself, and then no id."""

    id: str | None
    text: str | None = None
    filename: str | None = None


def references(item: Mapping[str, Any]) -> dict[str, list[Reference]]:
    """The references of each question of an item, by prompt key, the nearest first."""
    if traces.is_trace(item):
        given = item.get("messages")
        messages = enumerate(given if isinstance(given, list) else ())
        named = {str(place): _of_message(message) for place, message in messages}
    else:
        prompts = item.get("prompts")
        lists = prompts.items() if isinstance(prompts, Mapping) else ()
        named = {key: _of_prompt(prompt) for key, prompt in lists if isinstance(prompt, list)}
    return {key: found for key, each in named.items() if (found := _nearest(each, key))}


def _nearest(named: Iterable[Reference | None], key: str) -> list[Reference]:
    """The first `MAX_SOURCES` distinct references; invalid entries (None) are counted in a warning."""
    found: dict[Reference, None] = {}
    wrong = 0
    for one in named:
        if one is None:
            wrong += 1
        else:
            found[one] = None
        if len(found) == MAX_SOURCES:
            break
    if wrong:
        logger.warning("prompt %r: %d entries of its context name no item and are ignored", key, wrong)
    return list(found)


def _of_prompt(prompt: Sequence[Any]) -> Iterator[Reference | None]:
    """The references in a prompt's metadata elements; None for an invalid entry."""
    for element in prompt:
        near = get_path(element, "value", "nearestItems")
        for one in near if isinstance(near, list) else ():
            yield Reference(one) if isinstance(one, str) and ID.fullmatch(one) else None


def _of_message(message: Any) -> Iterator[Reference | None]:
    """The references in a trace message's context; None for an invalid entry."""
    given = get_path(message, "context")
    for one in given if isinstance(given, list) else ():
        text, item_id, filename = (text_at(one, key) for key in ("text", "item_id", "filename"))
        item_id = item_id if item_id and ID.fullmatch(item_id) else None
        yield None if text is None and item_id is None else Reference(item_id, text, filename)
