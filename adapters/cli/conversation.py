"""A conversation with a loaded model: its turns, its options, and how it is saved as a prompt item."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from adapters.hugging import HuggingAdapter
from adapters.items.annotations import as_dict
from adapters.items.prompt_items import as_item
from adapters.openai_api.responses import with_certainty
from engine.configuration import override
from engine.errors import ConfigurationError
from engine.types import Answer, Message, Request, Usage


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and its answer, which an interruption may have cut."""

    question: str
    answer: Answer


class Conversation:
    """The turns so far; each question is asked with all of them.

    Attributes:
        turns: those that have an answer.
        options: of the next answers.
        question: the last one that was asked, answered or not; None before the first.
    """

    def __init__(self, adapter: HuggingAdapter) -> None:
        self._adapter = adapter
        self.options = adapter.configuration.generation
        self.turns: list[Turn] = []
        self.question: str | None = None
        self._turns_before = 0

    def change(self, **options: Any) -> None:
        """Changes the options of the next answers.

        Raises:
            ConfigurationError: an unknown option or an invalid value; the key is named.
        """
        if options.get("n") not in (None, 1):
            raise ConfigurationError("n: a question has one answer here; `predict` writes several")
        self.options = override(self.options, options)

    def ask(self, question: str, held: Callable[[], AbstractContextManager[None]]) -> Iterator[str]:
        """Asks a question; gives its answer's text as it grows, and keeps the turn at the end.

        Args:
            held: a context manager around each step of the engine; an exception that it raises ends the
                answer, and the text so far is kept.

        Raises:
            AdapterError: there is no answer; the turn is not kept.
        """
        self.question, self._turns_before = question, len(self.turns)
        said = ""
        options, certainty = self._adapter.prepared(self.options)
        chunks = self._adapter.engine.stream([Request(tuple(self._messages(question)), options)])
        try:
            while True:
                with held():
                    chunk = next(chunks)
                said += chunk.text
                yield chunk.text
                if chunk.answer is not None:
                    break
        except KeyboardInterrupt:
            if said:
                self.turns.append(Turn(question, Answer(said, (), None, None, "length", Usage(0, 0))))
            raise
        finally:
            chunks.close()  # type: ignore[attr-defined]
        if chunk.answer.error is not None:
            raise chunk.answer.error
        self.turns.append(Turn(question, with_certainty(chunk.answer, certainty)))

    def take_back(self) -> str | None:
        """Removes the last question's turn; returns the question, or None where none was asked."""
        del self.turns[self._turns_before :]
        return self.question

    def clear(self) -> None:
        """Starts a new conversation with the same options."""
        self.turns.clear()
        self.question, self._turns_before = None, 0

    def item(self, model_name: str) -> dict[str, Any]:
        """The conversation as a prompt item in messages, with its answers as annotations."""
        system = self.options.system_prompt
        messages = {"system": Message("system", (system,))} if system else {}
        messages |= {str(i): Message("user", (turn.question,)) for i, turn in enumerate(self.turns, 1)}
        answers = [as_dict(str(i), turn.answer, model_name) for i, turn in enumerate(self.turns, 1)]
        return as_item(messages, answers)

    def _messages(self, question: str) -> Iterator[Message]:
        for turn in self.turns:
            yield Message("user", (turn.question,))
            yield Message("assistant", (turn.answer.text,))
        yield Message("user", (question,))
