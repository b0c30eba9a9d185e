"""Whole conversations: every open turn is answered in order, all conversations of a batch together."""

from collections.abc import Callable, Sequence
from typing import Protocol

from engine.errors import PromptError
from engine.options import GenerationOptions
from engine.types import Answer, Dialogue, Message, Request

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


def converse(engine: Engine, dialogues: Sequence[Dialogue], options: GenerationOptions) -> list[list[Answer]]:
    """The answers of each dialogue, one per open turn; no dialogue waits for another's turns.

    A turn is asked with everything before it in its history, the answers given here included. After a turn
    that fails, the rest of its dialogue is not asked: it would be answered without its context.
    """
    open_dialogues = [i for i, dialogue in enumerate(dialogues) if dialogue.turns]
    histories = [list(dialogue.history) for dialogue in dialogues]
    answers: list[list[Answer]] = [[] for _ in dialogues]

    def ask(i: int) -> Request:
        histories[i] += dialogues[i].turns[len(answers[i])].messages
        return Request(tuple(histories[i]), options)

    def follow(place: int, answer: Answer) -> Request | None:
        i = open_dialogues[place]
        answers[i].append(answer)
        histories[i].append(Message("assistant", (answer.text,)))
        return ask(i) if answer.error is None and len(answers[i]) < len(dialogues[i].turns) else None

    engine.generate([ask(i) for i in open_dialogues], follow)
    return [
        given + [_not_asked(dialogue.turns[len(given) - 1].key) for _ in dialogue.turns[len(given) :]]
        for dialogue, given in zip(dialogues, answers, strict=True)
    ]


def _not_asked(key: str) -> Answer:
    return Answer.failed(PromptError(f"not asked, for the turn before it has no answer (prompt {key!r})"))
