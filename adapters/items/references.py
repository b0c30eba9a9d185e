"""References to retrieved context: the items that a search has found for the questions of an item.

A prompt has them in its metadata (`nearestItems`), a message of a trace in its `context`. Pure.
"""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapters.items import traces
from adapters.items.stored import at, text_at

logger = logging.getLogger(__name__)

# An id becomes part of a request's path.
ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
# References of one question that are followed at most.
MAX_SOURCES = 64


@dataclass(frozen=True, slots=True)
class Source:
    """What was fetched of an item."""

    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reference:
    """An item that a question names; a trace may bring the text along."""

    id: str | None
    text: str | None = None
    filename: str | None = None


def references(item: Mapping[str, Any]) -> dict[str, list[Reference]]:
    """What each question of an item names, by prompt key, the nearest first."""
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
    """The first `MAX_SOURCES` of the items that a question names, each once; None names none."""
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
        logger.warning("prompt %r: %d entries of its context that name no item are left out", key, wrong)
    return list(found)


def _of_prompt(prompt: Sequence[Any]) -> Iterator[Reference | None]:
    """The items in a prompt's metadata elements."""
    for element in prompt:
        near = at(element, "value", "nearestItems")
        for one in near if isinstance(near, list) else ():
            yield Reference(one) if isinstance(one, str) and ID.fullmatch(one) else None


def _of_message(message: Any) -> Iterator[Reference | None]:
    """The texts and items in a trace message's context."""
    given = at(message, "context")
    for one in given if isinstance(given, list) else ():
        text, item_id, filename = (text_at(one, key) for key in ("text", "item_id", "filename"))
        item_id = item_id if item_id and ID.fullmatch(item_id) else None
        yield None if text is None and item_id is None else Reference(item_id, text, filename)
