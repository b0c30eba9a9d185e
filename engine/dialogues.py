"""Whole conversations: every open turn is answered in order, all conversations of a batch together."""

from collections.abc import Sequence
from typing import Protocol

from engine.errors import PromptError
from engine.options import GenerationOptions
from engine.types import Answer, Dialogue, Message, Request


class Engine(Protocol):
    """What answers requests: same order, same length."""

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        """An answer for each request; a failed one carries its error."""
        ...


def converse(engine: Engine, dialogues: Sequence[Dialogue], options: GenerationOptions) -> list[list[Answer]]:
    """The answers of each dialogue, one per open turn; turn k of all dialogues is one batch.

    A turn is asked with everything before it in its history, the answers given here included. After a turn
    that fails, the rest of its dialogue is not asked: it would be answered without its context.
    """
    histories = [list(dialogue.history) for dialogue in dialogues]
    answers: list[list[Answer]] = [[] for _ in dialogues]
    for turn in range(max((len(dialogue.turns) for dialogue in dialogues), default=0)):
        asked = [
            i
            for i, dialogue in enumerate(dialogues)
            if len(dialogue.turns) > turn and not _broken(answers[i])
        ]
        for i in asked:
            histories[i] += dialogues[i].turns[turn].messages
        results = engine.generate([Request(tuple(histories[i]), options) for i in asked])
        for i, answer in zip(asked, results, strict=True):
            answers[i].append(answer)
            histories[i].append(Message("assistant", (answer.text,)))
    return [
        given + [_not_asked(dialogue.turns[len(given) - 1].key) for _ in dialogue.turns[len(given) :]]
        for dialogue, given in zip(dialogues, answers, strict=True)
    ]


def _broken(answers: list[Answer]) -> bool:
    return bool(answers) and answers[-1].error is not None


def _not_asked(key: str) -> Answer:
    return Answer.failed(PromptError(f"not asked, for the turn before it has no answer (prompt {key!r})"))
