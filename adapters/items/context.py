"""Retrieved context (RAG): adds the texts that a search has found to the question, within a token budget.

Anyone may have written these texts, so they become part of a user message, never of a system message.
"""

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from adapters.items import fetching
from adapters.items.item import Item
from adapters.items.references import Reference, Source
from adapters.items.stored import get_path, is_link, size_of
from engine.contract import Engine
from engine.errors import PromptError
from engine.types import Dialogue, Message, Turn

logger = logging.getLogger(__name__)

# Bytes of one text at most.
MAX_BYTES = 2**20


def wanted(item: Item, fields: Sequence[str] = ()) -> list[str]:
    """Ids of the items to fetch for an item's open questions, each once.

    Args:
        fields: metadata fields to add to each text; with any, items whose text is known are fetched, too.
    """
    open_keys = [turn.key for dialogue in item.dialogues for turn in dialogue.turns]
    named = [one for key in open_keys for one in item.references.get(key, ())]
    return list(dict.fromkeys(one.id for one in named if one.id and (one.text is None or fields)))


def fetch(
    ids: Iterable[str],
    record: Callable[[str], Mapping[str, Any]],
    content: Callable[[str, int], bytes],
    hosts: Sequence[str] = (),
) -> dict[str, Source]:
    """Fetches items' texts and metadata, by item id; an item that cannot be fetched is logged and left out.

    Args:
        record: returns an item's JSON by its id.
        content: downloads an item's content by its id and its expected length in bytes.
        hosts: hosts that a link item may point to.
    """
    sources: dict[str, Source] = {}
    for item_id in ids:
        try:
            sources[item_id] = _source(item_id, record, content, hosts)
        except Exception as error:  # The question is asked without this text.
            logger.warning("item %s is left out of the context (%s)", item_id, type(error).__name__)
            logger.debug("it could not be fetched", exc_info=True)
    return sources


def reader(
    engine: Engine, budget: int, into_question: bool = False, fields: Sequence[str] = ()
) -> Callable[[Item], Sequence[Dialogue]]:
    """A function that returns an item's dialogues with their context (`with_context`) for this engine.

    Args:
        engine: counts tokens, and limits `budget` to a quarter of its context length.
        budget, into_question, fields: see `with_context`.
    """
    length = engine.context_length
    room = budget if length is None else min(budget, length // 4)
    return lambda item: with_context(item, engine.count_tokens, room, into_question, fields)


def with_context(
    item: Item,
    count: Callable[[str], int],
    budget: int,
    into_question: bool = False,
    fields: Sequence[str] = (),
) -> Sequence[Dialogue]:
    """An item's dialogues with the retrieved context added to each open question.

    Args:
        count: counts the tokens of a text.
        budget: tokens of one question's context at most; a text that does not fit is left out whole, and
            logged by its item's id.
        into_question: append the context to the question; otherwise it is a user message before it.
        fields: metadata fields to write before each text, as dotted paths.
    """

    def completed(turn: Turn) -> Turn:
        place = f"{item.name}: prompt {turn.key!r}"
        context = _joined(item.references.get(turn.key, ()), item.sources, count, budget, fields, place)
        if not context:
            return turn
        *before, question = turn.messages
        if into_question:
            behind = replace(question, parts=(*question.parts, f"\nContext:\n{context}"))
            return replace(turn, messages=(*before, behind))
        # Not a system message, which the model would obey; and its turn alone needs it.
        ahead = Message("user", (f"Answer with the help of this context:\n{context}\n",))
        return replace(turn, messages=(*before, ahead, question))

    if not item.references:
        return item.dialogues
    return [replace(dialogue, turns=tuple(map(completed, dialogue.turns))) for dialogue in item.dialogues]


def _joined(
    named: Iterable[Reference],
    sources: Mapping[str, Source],
    count: Callable[[str], int],
    budget: int,
    fields: Sequence[str],
    place: str,
) -> str:
    texts: list[str] = []
    left_out: list[str] = []
    for one in named:
        source = sources.get(one.id or "")
        text = one.text if one.text is not None else source.text if source else None
        if text is None or not text.strip():
            left_out.append(one.id or "a text without an id")
            continue
        block = _block(text, _fields(one, source, fields))
        size = count(block)
        if size > budget:
            left_out.append(one.id or "a text without an id")
            continue
        budget -= size
        texts.append(block)
    if left_out:
        logger.warning("%s: left out of its context: %s", place, ", ".join(left_out))
    return "\n".join(texts)


def _block(text: str, fields: str) -> str:
    """A text in the form in which the platform's SDK writes a context."""
    return f"<source>\n{fields}</source>\n<text>\n{text}\n</text>"


def _fields(one: Reference, source: Source | None, fields: Sequence[str]) -> str:
    lines = [] if one.filename is None else [f"filename:{one.filename}\n"]
    for path in fields if source else ():
        value = get_path(source.metadata if source else None, *path.split("."))
        if value is not None:
            with contextlib.suppress(RecursionError, ValueError):  # Nested too deep, or a number too long.
                lines.append(f"{path.rpartition('.')[2]}:{value}\n")
    return "".join(lines)


def _source(
    item_id: str,
    record: Callable[[str], Mapping[str, Any]],
    content: Callable[[str, int], bytes],
    hosts: Sequence[str],
) -> Source:
    known = record(item_id)
    size = size_of(known)
    if size > MAX_BYTES:
        raise PromptError("it is too large for a context")
    address = str(get_path(known, "metadata", "system", "shebang", "linkInfo", "ref"))
    found = fetching.fetch(address, hosts, MAX_BYTES) if is_link(known) else content(item_id, size)
    if len(found) > MAX_BYTES:
        raise PromptError("it is too large for a context")
    metadata = get_path(known, "metadata")
    return Source(found.decode("utf-8-sig"), metadata if isinstance(metadata, Mapping) else {})
