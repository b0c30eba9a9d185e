"""Short ways to write conversations down."""

from collections.abc import Sequence

from engine.contract import Engine
from engine.conversation import converse
from engine.options import GenerationOptions
from engine.types import Answer, Dialogue, Message, Request, Turn


def said(*texts: str, system: str | None = None) -> tuple[Message, ...]:
    """Messages of user and assistant in turn, after a system message where one is given."""
    roles = ("user", "assistant") * len(texts)
    opening = [Message("system", (system,))] if system else []
    return (*opening, *(Message(role, (text,)) for role, text in zip(roles, texts, strict=False)))


def ask(*texts: str, **options) -> Request:
    """A request with the last of the texts as its open question."""
    return Request(said(*texts), GenerationOptions(**options))


def dialogue(key: str, *questions: str, history: tuple[Message, ...] = ()) -> Dialogue:
    """A conversation whose questions are all open; each has the prompt key "<key>.<number>"."""
    turns = (Turn(f"{key}.{i}", said(question)) for i, question in enumerate(questions, 1))
    return Dialogue(key, history, tuple(turns))


def answered(engine: Engine, dialogues: Sequence[Dialogue], options: GenerationOptions) -> list[list[Answer]]:
    """The answers of each dialogue, in the order of the dialogues."""
    answers = {id(dialogue): given for dialogue, given in converse(engine, iter(dialogues), options)}
    return [answers[id(dialogue)] for dialogue in dialogues]
