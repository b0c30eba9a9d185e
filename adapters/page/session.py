"""The conversations of one page: what was asked, what was answered, and what is still to be answered."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace

from adapters.openai_api.responses import Certainty, raw_certainty, with_certainty
from engine.contract import Engine
from engine.errors import AdapterError
from engine.options import GenerationOptions
from engine.types import Answer, Image, Message, Request


@dataclass(frozen=True, slots=True)
class Exchange:
    """Messages that are answered together, and their answer.

    Attributes:
        messages: the last one is the question; others (a system message, say) may come before it.
        text: the text of the answer, as far as it is known.
        answer: the whole answer; None while there is none.
        stopped: whether the answer was stopped before its end.
        options: that the answer was generated with; None where it was not generated here.
        calibrated: whether the answer's confidence is a share of right answers.
        by: the name of the model that gave an answer which was read from a file; else None.
    """

    messages: tuple[Message, ...]
    text: str = ""
    answer: Answer | None = None
    stopped: bool = False
    options: GenerationOptions | None = None
    calibrated: bool = False
    by: str | None = None

    @property
    def open(self) -> bool:
        """Whether it is still to be answered."""
        return self.answer is None and not self.stopped

    @property
    def question(self) -> str:
        """The text of its last message."""
        return self.messages[-1].text

    @property
    def said(self) -> tuple[Message, ...]:
        """Its messages in the conversation; none if there is no answer."""
        failed = self.answer is not None and self.answer.error is not None
        return () if failed or not self.text else (*self.messages, Message("assistant", (self.text,)))

    def asking(self, text: str) -> Exchange:
        """The exchange with another question and no answer; images of the question stay."""
        *before, last = self.messages
        images = tuple(part for part in last.parts if isinstance(part, Image))
        return Exchange((*before, Message(last.role, (*images, text))))


Conversation = list[Exchange]


@dataclass(slots=True)
class Session:
    """One conversation for each model, with the same questions.

    Each action replaces a conversation by a new list, and an answer that is being generated for the old one
    ends at its next token. So `stop`, a retry and an edit end a running answer.

    Attributes:
        conversations: one for each model.
        opened: the conversations of the file that was opened last, by their keys.
        key: of the one of these that is shown; None for another conversation.
    """

    conversations: list[Conversation]
    opened: dict[str, list[Conversation]] = field(default_factory=dict)
    key: str | None = None

    def ask(self, text: str) -> None:
        """Adds a question; an answer that is not complete is stopped."""
        self.stop()
        asked = Exchange((Message("user", (text,)),))
        self.conversations = [[*conversation, asked] for conversation in self.conversations]

    def retry(self, message: int) -> None:
        """Asks the exchange of a shown message again, and drops all after it."""
        place = self._place(message)
        self.conversations = [
            [*conversation[:place], Exchange(conversation[place].messages)]
            for conversation in self.conversations
        ]

    def edit(self, message: int, text: str) -> None:
        """Asks another question in the exchange of a shown message, and drops all after it."""
        place = self._place(message)
        self.conversations = [
            [*conversation[:place], conversation[place].asking(text)] for conversation in self.conversations
        ]

    def undo(self, message: int) -> str:
        """Drops the exchange of a shown message and all after it; returns its question."""
        place = self._place(message)
        question = self.conversations[0][place].question
        self.conversations = [conversation[:place] for conversation in self.conversations]
        return question

    def stop(self) -> None:
        """Stops every answer that is not complete; its text stays."""
        self.conversations = [
            [replace(one, stopped=True) if one.open else one for one in conversation]
            for conversation in self.conversations
        ]

    def clear(self) -> None:
        """Starts a new conversation; the opened file stays open."""
        self._leave()
        self.key = None
        self.conversations = [[] for _ in self.conversations]

    def open(self, opened: dict[str, list[Conversation]]) -> None:
        """Takes the conversations of a file, and shows the first one."""
        self.opened, self.key = opened, None
        self.show(next(iter(opened)))

    def show(self, key: str) -> None:
        """Puts a conversation of the opened file in place of the present one."""
        self._leave()
        self.key = key
        # Copies: an answer that is still being generated for the same conversation ends.
        self.conversations = [list(conversation) for conversation in self.opened[key]]

    def step(self, by: int) -> str:
        """Shows the next conversation of the opened file, or another one; returns its key."""
        keys = list(self.opened)
        at = keys.index(self.key) + by if self.key is not None else 0
        self.show(keys[at % len(keys)])
        return keys[at % len(keys)]

    def _leave(self) -> None:
        """Keeps what was said in a conversation of the opened file."""
        if self.key is not None:
            self.opened[self.key] = self.conversations

    def fail(self, model: int, error: AdapterError) -> None:
        """Ends the open exchanges of a model's conversation with an error."""
        failed = Answer.failed(error)
        self.conversations[model] = [
            replace(one, answer=failed) if one.open else one for one in self.conversations[model]
        ]

    def answer(
        self, model: int, engine: Engine, options: GenerationOptions, certainty: Certainty = raw_certainty
    ) -> Iterator[Conversation]:
        """Answers the open exchanges of a model's conversation in order.

        Args:
            certainty: gives the confidence that an answer is shown with.

        Yields:
            The conversation each time it has grown, until another action replaces it.
        """
        mine = self.conversations[model]
        for place, exchange in enumerate(mine):
            if not exchange.open:
                continue
            history = tuple(message for one in mine[:place] for message in one.said)
            with closing(_answered(engine, history, exchange, options, certainty)) as stages:
                for stage in stages:
                    if self.conversations[model] is not mine:
                        return
                    mine[place] = stage
                    yield mine

    def _place(self, message: int) -> int:
        """The index of the exchange that a shown message belongs to: all its messages, then its answer."""
        places = [
            place
            for place, exchange in enumerate(self.conversations[0])
            for _ in (*exchange.messages, exchange.text)
        ]
        return places[message]


def _answered(
    engine: Engine,
    history: tuple[Message, ...],
    exchange: Exchange,
    options: GenerationOptions,
    certainty: Certainty,
) -> Generator[Exchange]:
    """The exchange each time its answer has grown."""
    text = ""
    request = Request((*history, *exchange.messages), options)
    try:
        for chunk in engine.stream([request]):
            text = chunk.answer.text if chunk.answer else text + chunk.text
            answer = chunk.answer and with_certainty(chunk.answer, certainty)
            calibrated = answer is not None and certainty is not raw_certainty
            yield replace(exchange, text=text, answer=answer, options=options, calibrated=calibrated)
    except AdapterError as error:
        yield replace(exchange, answer=Answer.failed(error))
