"""`Item`: a parsed prompt item, with its earlier answers, references and state on the platform."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from adapters.items.prompt_items import earlier_answers, has_messages, read
from adapters.items.references import Reference, Source, references
from adapters.items.stored import Record, get_path, size_of, text_at
from engine.errors import AdapterError, PromptError
from engine.types import Dialogue

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Snapshot:
    """The state of an item on the platform when it was read, to detect later changes.

    Attributes:
        size: the content's length in bytes; 0 if unknown.
        updated_at: the platform's date of the last change.
        answers: this model's answers on the item.
        digest: the content's SHA-256; empty until it is downloaded.
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
        """From an item's JSON."""
        filename, updated_at = text_at(item, "filename") or "", text_at(item, "updatedAt") or ""
        return cls(item["id"], dataset_id, filename, size_of(item), updated_at)

    @classmethod
    def of_entity(cls, item: Any) -> Self:
        """From the SDK's entity."""
        size = size_of({"metadata": item.metadata})
        return cls(item.id, item.dataset_id, item.filename, size, item.updated_at or "")


# Compared and hashed by identity: the same item may be twice in a run.
@dataclass(slots=True, eq=False)
class Item:
    """A parsed prompt item.

    Attributes:
        name: its name in messages to the user.
        content: its JSON as the user wrote it; never changed.
        id: its id on the platform; None for a file.
        filename: its path; None if unknown.
        answers: annotations with earlier answers.
        dialogues: its conversations, each with the turns to be answered.
        unreadable: by prompt key, why a prompt cannot be read.
        error: why the whole item cannot be read; None if it can.
        references: by prompt key, the references to retrieved context.
        sources: the retrieved context that was fetched, by item id.
        snapshot: its state on the platform; None for a file.
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
        """Parses a prompt item's JSON. Never raises: errors are in `error` and `unreadable`.

        Args:
            content: the JSON, of any shape.
            model_name: the model whose earlier answers belong to the conversation.
            name: the item's name in messages to the user.
            answers: annotations of the item.
            known: further attributes of the item.
        """
        item = cls(_in_one_line(name), content, answers=answers, **known)
        try:
            item.dialogues, item.unreadable = read(content, item.name, earlier_answers(answers, model_name))
            item.references = references(content)
        except PromptError as error:
            item.error = error
        except Exception as error:  # For example nested too deep. It must not affect other items.
            logger.debug("an item could not be read", exc_info=True)
            item.error = PromptError(f"it could not be read ({type(error).__name__}): check its JSON")
        return item

    @classmethod
    def of(cls, given: Any, model_name: str, default_name: str = "the item") -> Self:
        """Parses an item of a batch, in the form of `for_batch`.

        Args:
            given: the item, of any shape.
            model_name: the model whose earlier answers belong to the conversation.
            default_name: the name in messages of an item without a file name and an id.
        """
        answers, sources = get_path(given, "annotations"), get_path(given, "sources")
        fetched = sources.items() if isinstance(sources, Mapping) else ()
        return cls.parse(
            given,
            model_name,
            item_name(given, default_name),
            answers=answers if isinstance(answers, list) else (),
            id=text_at(given, "id"),
            filename=text_at(given, "filename"),
            # A key "sources" of the user's JSON is ignored.
            sources={key: source for key, source in fetched if isinstance(source, Source)},
        )

    def for_batch(self) -> dict[str, Any]:
        """The item in the form that a model file's `predict` accepts.

        Its JSON with additional keys: "id" and "filename" if known, "annotations" if the item has messages,
        and "sources" (a `Source` by item id) if retrieved context was fetched.
        """
        known: dict[str, Any] = {"id": self.id, "filename": self.filename}
        if has_messages(self.content):
            known["annotations"] = list(self.answers)
        if self.sources:
            known["sources"] = self.sources
        return {**self.content, **{key: value for key, value in known.items() if value is not None}}

    def without(self, answered: Collection[str]) -> Self | None:
        """A copy of the item without answered prompts; None if all are answered.

        A conversation in messages, or a trace, is kept whole if one of its turns is open.

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
    """An item's name in messages to the user, in one line: its file name, else its id, else `default`."""
    return _in_one_line(text_at(content, "filename") or text_at(content, "id") or default)


def _in_one_line(name: str) -> str:
    return name if name.isprintable() else ascii(name)


def _left(
    content: Mapping[str, Any], open_keys: Collection[str], answered: Collection[str]
) -> Mapping[str, Any]:
    """An item's JSON without the answered prompts, for a model file that reads the JSON itself."""
    prompts = get_path(content, "prompts")
    if not isinstance(prompts, Mapping):  # A trace.
        return content
    messages = any(isinstance(prompts.get(key), list) for key in open_keys)
    kept = {
        key: prompt
        for key, prompt in prompts.items()
        if (messages if isinstance(prompt, list) else key not in answered)
    }
    return {**content, "prompts": kept}
