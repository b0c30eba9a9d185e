"""Context from a search: the texts of the items that a question names go along with it, within a budget.

A prompt names them in its metadata (`nearestItems`), a message of a trace in its `context`. Their texts are
another person's words: they become part of a message like any other text.
"""

import contextlib
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from adapters.items import fetching, traces
from adapters.items.prompt_items import item_name, read
from adapters.items.stored import at, links, size_of, text_at
from engine.errors import PromptError
from engine.types import Dialogue, Message, Turn

logger = logging.getLogger(__name__)

# An id becomes part of a request's path.
ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
MAX_BYTES = 2**20
# Items of one question that are fetched at most.
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


def wanted(item: Mapping[str, Any], model_name: str, fields: Sequence[str] = ()) -> list[str]:
    """Ids of the items that are to be fetched for the questions that are open; each once.

    Args:
        model_name: whose answers these are.
        fields: the metadata fields that go along.
    """
    named = references(item)
    if not named:
        return []
    try:
        dialogues, _ = read(item, model_name)
    except PromptError:
        return []
    open_keys = [turn.key for dialogue in dialogues for turn in dialogue.turns]
    ids = [
        one.id for key in open_keys for one in named.get(key, ()) if one.id and (one.text is None or fields)
    ]
    return list(dict.fromkeys(ids))


def complete(
    item: Mapping[str, Any],
    model_name: str,
    record: Callable[[str], Mapping[str, Any]],
    content: Callable[[str, int], bytes],
    fields: Sequence[str] = (),
    hosts: Sequence[str] = (),
) -> dict[str, Any]:
    """The item's JSON with the "sources" that its open questions name; arguments as `wanted` and `fetch`."""
    ids = wanted(item, model_name, fields)
    return {**item, "sources": fetch(ids, record, content, hosts)} if ids else dict(item)


def fetch(
    ids: Iterable[str],
    record: Callable[[str], Mapping[str, Any]],
    content: Callable[[str, int], bytes],
    hosts: Sequence[str] = (),
) -> dict[str, Source]:
    """The texts of items; one that has none or cannot be fetched is logged by its id.

    Args:
        record: an item's JSON by its id, from the platform.
        content: an item's bytes by its id and how many they are said to be, from the platform.
        hosts: other hosts that a link item may lead to.
    """
    sources: dict[str, Source] = {}
    for item_id in ids:
        try:
            sources[item_id] = _source(item_id, record, content, hosts)
        except Exception as error:  # One text less; the question is asked all the same.
            logger.warning("item %s is left out of the context (%s)", item_id, type(error).__name__)
            logger.debug("it could not be fetched", exc_info=True)
    return sources


def reader(
    engine: Any, budget: int, into_question: bool = False, fields: Sequence[str] = ()
) -> Callable[[Mapping[str, Any], str], tuple[list[Dialogue], dict[str, PromptError]]]:
    """`prompt_items.read` for a model: what it reads has its context.

    Args:
        engine: its tokenizer counts the tokens, and a quarter of its window bounds the budget. Where it has
            none (a server's), a token is three bytes.
        budget, into_question, fields: as for `add`.
    """
    tokenizer = getattr(engine, "tokenizer", None)
    window = getattr(getattr(engine, "loaded", None), "window", None)
    room = budget if window is None else min(budget, window // 4)

    def count(text: str) -> int:
        text_bytes = text.encode("utf-8", "replace")
        if tokenizer is None:
            return -(-len(text_bytes) // 3)
        return len(tokenizer(text_bytes.decode(), add_special_tokens=False, verbose=False)["input_ids"])

    def read_with_context(
        item: Mapping[str, Any], model_name: str
    ) -> tuple[list[Dialogue], dict[str, PromptError]]:
        dialogues, errors = read(item, model_name)
        return add(dialogues, item, count, room, into_question, fields), errors

    return read_with_context


def add(
    dialogues: Iterable[Dialogue],
    item: Mapping[str, Any],
    count: Callable[[str], int],
    budget: int,
    into_question: bool = False,
    fields: Sequence[str] = (),
) -> list[Dialogue]:
    """Dialogues whose open questions have their context.

    Args:
        item: their item's JSON; its "sources" are what `fetch` returned.
        count: the number of tokens of a text.
        budget: the most tokens of one question's context; a text that does not fit is left out whole, and
            logged by its item's id.
        into_question: whether it stands behind the question in the same message, not in a message before it.
        fields: metadata fields of each item that precede its text, as paths with dots.
    """
    named = references(item)
    given = item.get("sources")
    sources = given if isinstance(given, Mapping) else {}

    def told(turn: Turn) -> Turn:
        place = f"{item_name(item, 'the item')}: prompt {turn.key!r}"
        context = _joined(named.get(turn.key, ()), sources, count, budget, fields, place)
        if not context:
            return turn
        *before, question = turn.messages
        if into_question:
            behind = replace(question, parts=(*question.parts, f"\nContext:\n{context}"))
            return replace(turn, messages=(*before, behind))
        # Not the system's words: what a search finds has no such authority, and goes with its turn.
        ahead = Message("user", (f"Answer with the help of this context:\n{context}\n",))
        return replace(turn, messages=(*before, ahead, question))

    if not named:
        return list(dialogues)
    return [replace(dialogue, turns=tuple(map(told, dialogue.turns))) for dialogue in dialogues]


def _joined(
    named: Iterable[Reference],
    sources: Mapping[Any, Any],
    count: Callable[[str], int],
    budget: int,
    fields: Sequence[str],
    place: str,
) -> str:
    texts: list[str] = []
    left_out: list[str] = []
    for one in named:
        source = sources.get(one.id)
        source = source if isinstance(source, Source) else None
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
        value = at(source.metadata if source else None, *path.split("."))
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
    address = str(at(known, "metadata", "system", "shebang", "linkInfo", "ref"))
    found = fetching.fetch(address, hosts, MAX_BYTES) if links(known) else content(item_id, size)
    if len(found) > MAX_BYTES:
        raise PromptError("it is too large for a context")
    metadata = at(known, "metadata")
    return Source(found.decode("utf-8-sig"), metadata if isinstance(metadata, Mapping) else {})


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
