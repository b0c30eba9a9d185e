"""`Item`: a prompt item, parsed once, with everything known about it until it is answered."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from adapters.items.prompt_items import earlier_answers, has_messages, read
from adapters.items.references import Reference, Source, references
from adapters.items.stored import Record, at, size_of, text_at
from engine.errors import AdapterError, PromptError
from engine.types import Dialogue

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Snapshot:
    """An item of the platform as it was when its turn came.

    Attributes:
        size: of its content in bytes; 0 where unknown.
        answers: this model's annotations that it had.
        digest: of its content, once that is downloaded.
    """

    id: str
    dataset_id: str
    filename: str
    size: int
    updated_at: str
    answers: list[Record] = field(default_factory=list)
    digest: str = ""

    @classmethod
    def of(cls, item: Record, dataset_id: str) -> Self:
        """Takes the record of an item of a dataset."""
        filename, updated_at = text_at(item, "filename") or "", text_at(item, "updatedAt") or ""
        return cls(item["id"], dataset_id, filename, size_of(item), updated_at)

    @classmethod
    def of_entity(cls, item: Any) -> Self:
        """Takes the SDK's entity of an item."""
        size = size_of({"metadata": item.metadata})
        return cls(item.id, item.dataset_id, item.filename, size, item.updated_at or "")


# Compared and hashed by identity: one item may be asked twice in a run.
@dataclass(slots=True, eq=False)
class Item:
    """A prompt item on its way to answers.

    Attributes:
        name: what messages to the user call it.
        content: its JSON as the user wrote it; never changed.
        id: on the platform, else None.
        filename: its path, else None.
        answers: annotations with earlier answers.
        dialogues: its conversations, each with the turns to be answered.
        unreadable: by prompt key, why a prompt cannot be asked.
        error: why nothing of it can be asked.
        references: by prompt key, the items that a search has found for it.
        sources: of these, what was fetched, by item id.
        snapshot: of the platform's item; None for a file.
    """

    name: str
    content: Mapping[str, Any]
    id: str | None = None
    filename: str | None = None
    answers: Sequence[Record] = ()
    dialogues: Sequence[Dialogue] = ()
    unreadable: Mapping[str, AdapterError] = field(default_factory=dict)
    error: AdapterError | None = None
    references: Mapping[str, Sequence[Reference]] = field(default_factory=dict)
    sources: Mapping[str, Source] = field(default_factory=dict)
    snapshot: Snapshot | None = None

    @classmethod
    def parse(
        cls, content: Any, model_name: str, name: str, *, answers: Sequence[Record] = (), **known: Any
    ) -> Self:
        """Reads a prompt item's JSON. What cannot be read is noted in `error` and `unreadable`.

        Args:
            model_name: whose earlier answers belong to the conversation.
            name: what messages to the user call the item.
            answers: annotations of the item.
            known: further attributes.
        """
        item = cls(_in_one_line(name), content, answers=answers, **known)
        try:
            item.dialogues, item.unreadable = read(content, item.name, earlier_answers(answers, model_name))
            item.references = references(content)
        except PromptError as error:
            item.error = error
        except Exception as error:  # Nested too deep, say: whatever it holds, the other items are answered.
            logger.debug("an item could not be read", exc_info=True)
            item.error = PromptError(f"it could not be read ({type(error).__name__}): look at its JSON")
        return item

    @classmethod
    def of(cls, given: Any, model_name: str, default_name: str = "the item") -> Self:
        """Reads an item of a batch, see `for_batch`.

        Args:
            default_name: what messages call an item that has neither a file name nor an id.
        """
        answers, sources = at(given, "annotations"), at(given, "sources")
        fetched = sources.items() if isinstance(sources, Mapping) else ()
        return cls.parse(
            given,
            model_name,
            item_name(given, default_name),
            answers=answers if isinstance(answers, list) else (),
            id=text_at(given, "id"),
            filename=text_at(given, "filename"),
            # What the JSON itself calls so is no source.
            sources={key: source for key, source in fetched if isinstance(source, Source)},
        )

    def for_batch(self) -> dict[str, Any]:
        """The item as a model file's `predict` takes it.

        Its JSON, and beside it "id" and "filename" where it has them, "annotations" where earlier answers
        belong to the conversation, and "sources", each a `Source`, where context was fetched.
        """
        known: dict[str, Any] = {"id": self.id, "filename": self.filename}
        if has_messages(self.content):
            known["annotations"] = list(self.answers)
        if self.sources:
            known["sources"] = self.sources
        return {**self.content, **{key: value for key, value in known.items() if value is not None}}

    def without(self, answered: Collection[str]) -> Self | None:
        """The item with what is left to ask; None where nothing is.

        A conversation in messages, or a trace, stays whole while one of its turns is open.

        Args:
            answered: keys of prompts that have an answer.
        """
        if not answered or self.error is not None:
            return self
        left = [one for one in self.dialogues if any(turn.key not in answered for turn in one.turns)]
        unreadable = {key: error for key, error in self.unreadable.items() if key not in answered}
        if not left and not unreadable:
            return None
        open_keys = {turn.key for dialogue in left for turn in dialogue.turns}.difference(answered)
        content = _left(self.content, open_keys, answered)
        return replace(self, content=content, dialogues=left, unreadable=unreadable)


def item_name(content: Any, default: str) -> str:
    """What messages to the user call an item in a batch: its file name, else its id, in one line."""
    return _in_one_line(text_at(content, "filename") or text_at(content, "id") or default)


def _in_one_line(name: str) -> str:
    return name if name.isprintable() else ascii(name)


def _left(
    content: Mapping[str, Any], open_keys: Collection[str], answered: Collection[str]
) -> Mapping[str, Any]:
    """An item's JSON with the prompts that are left, for a model file that reads it by itself."""
    prompts = at(content, "prompts")
    if not isinstance(prompts, Mapping):  # A trace.
        return content
    messages = any(isinstance(prompts.get(key), list) for key in open_keys)
    kept = {
        key: prompt
        for key, prompt in prompts.items()
        if (messages if isinstance(prompt, list) else key not in answered)
    }
    return {**content, "prompts": kept}
