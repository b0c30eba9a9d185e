"""Whole conversations: every open turn is answered in order, all conversations of a batch together."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from engine.errors import PromptError
from engine.options import GenerationOptions
from engine.types import Answer, Chunk, Dialogue, Message, Request

# Told the answer to a conversation's request, by its place among the requests; returns what it asks next.
Follow = Callable[[int, Answer], Request | None]


class Engine(Protocol):
    """What answers requests: same order, same length."""

    def generate(self, requests: Sequence[Request], follow: Follow | None = None) -> list[Answer]:
        """An answer for each request; a failed one carries its error.

        What `follow` returns is asked as soon as its conversation has the answer before it; the answers to
        that go to `follow` alone.
        """
        ...


class InFlightEngine(Engine, Protocol):
    """An engine that takes requests while it answers others."""

    def stream(
        self, requests: Iterable[Request | None], follow: Follow | None = None, in_pieces: bool = True
    ) -> Iterator[Chunk]:
        """Answers as they come; None among the requests says that the next one is not there yet.

        `follow` is told an answer before its last chunk is given.
        """
        ...


def gathered(chunks: Iterable[Chunk], count: int) -> list[Answer]:
    """The answers to so many requests, in their order; those to what was asked next are left out."""
    answers: dict[int, Answer] = {}
    for chunk in chunks:
        if chunk.answer is not None:
            answers.setdefault(chunk.index, chunk.answer)
    return [answers[i] for i in range(count)]


@dataclass(slots=True)
class _Talk:
    """A dialogue on its way."""

    dialogue: Dialogue
    options: GenerationOptions
    history: list[Message] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.history += self.dialogue.history

    def ask(self) -> Request:
        """What its next turn asks."""
        self.history += self.dialogue.turns[len(self.answers)].messages
        return Request(tuple(self.history), self.options)

    def told(self, answer: Answer) -> Request | None:
        """What it asks after an answer, which may be nothing."""
        self.answers.append(answer)
        self.history.append(Message("assistant", (answer.text,)))
        return None if self.ended else self.ask()

    @property
    def ended(self) -> bool:
        return len(self.answers) == len(self.dialogue.turns) or bool(
            self.answers and self.answers[-1].error is not None
        )

    def given(self) -> list[Answer]:
        """One answer for each turn; those after a failed one were not asked."""
        left = self.dialogue.turns[len(self.answers) :]
        failed = self.dialogue.turns[len(self.answers) - 1].key if left else ""
        return self.answers + [_not_asked(failed) for _ in left]


def converse(engine: Engine, dialogues: Sequence[Dialogue], options: GenerationOptions) -> list[list[Answer]]:
    """The answers of each dialogue, one per open turn; no dialogue waits for another's turns.

    A turn is asked with everything before it in its history, the answers given here included. After a turn
    that fails, the rest of its dialogue is not asked: it would be answered without its context.
    """
    talks = [_Talk(dialogue, options) for dialogue in dialogues]
    asking = [talk for talk in talks if not talk.ended]
    engine.generate([talk.ask() for talk in asking], lambda place, answer: asking[place].told(answer))
    return [talk.given() for talk in talks]


def converse_in_flight(
    engine: InFlightEngine,
    dialogues: Iterable[Dialogue | None],
    options: GenerationOptions,
    grown: Callable[[int, int, str], object] | None = None,
) -> Iterator[tuple[int, list[Answer]]]:
    """As `converse`, each dialogue as it ends, with its place; only those on their way are kept.

    Args:
        dialogues: each with a turn, taken as the engine has room; None says that the next is not there yet.
        grown: told a dialogue's place, a turn's place in it, and what the turn's answer has grown by.
    """
    talks: dict[int, _Talk] = {}

    def requests() -> Iterator[Request | None]:
        place = 0
        for dialogue in dialogues:
            if dialogue is None:
                yield None
            else:
                talks[place] = _Talk(dialogue, options)
                yield talks[place].ask()
                place += 1

    def follow(place: int, answer: Answer) -> Request | None:
        return talks[place].told(answer)

    for chunk in engine.stream(requests(), follow, in_pieces=grown is not None):
        talk = talks[chunk.index]
        if chunk.answer is None and grown is not None:
            grown(chunk.index, len(talk.answers), chunk.text)
        if chunk.answer is not None and talk.ended:
            yield chunk.index, talks.pop(chunk.index).given()


def _not_asked(key: str) -> Answer:
    return Answer.failed(PromptError(f"not asked, for the turn before it has no answer (prompt {key!r})"))
