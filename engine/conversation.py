"""Whole conversations: every open turn is answered in order, with all that was said before it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from engine.contract import Engine
from engine.errors import GenerationError, PromptError
from engine.options import GenerationOptions
from engine.progress import Expected
from engine.types import Answer, Dialogue, Message, Request

# Callback: a dialogue, the index of one of its turns, and the text that is new in that turn's answer.
OnDelta = Callable[[Dialogue, int, str], object]


@dataclass(slots=True)
class _Conversation:
    """A dialogue that is being answered, with the messages and answers so far."""

    dialogue: Dialogue
    options: GenerationOptions
    messages: list[Message] = field(default_factory=list)
    answers: list[Answer] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.messages += self.dialogue.history

    def request(self) -> Request:
        """The request of the next turn."""
        self.messages += self.dialogue.turns[len(self.answers)].messages
        return Request(tuple(self.messages), self.options)

    def add(self, answer: Answer) -> Request | None:
        """Takes the answer to the last request; returns the next request, or None at the end."""
        if self.options.on_length == "list":
            answer = _whole(answer)
        self.answers.append(answer)
        self.messages.append(Message("assistant", (answer.text,)))
        return None if self.ended else self.request()

    @property
    def ended(self) -> bool:
        """Whether all turns are answered, or one has failed."""
        failed = bool(self.answers) and self.answers[-1].error is not None
        return failed or len(self.answers) == len(self.dialogue.turns)

    def all_answers(self) -> list[Answer]:
        """One answer for each turn; the turns after a failed one have an error, too."""
        skipped = self.dialogue.turns[len(self.answers) :]
        failed = self.dialogue.turns[len(self.answers) - 1].key if skipped else ""
        return self.answers + [_not_asked(failed) for _ in skipped]


def converse(
    engine: Engine,
    dialogues: Iterable[Dialogue | None],
    options: GenerationOptions,
    on_delta: OnDelta | None = None,
    expected: int = 0,
) -> Iterator[tuple[Dialogue, list[Answer]]]:
    """Answers all open turns of dialogues; no dialogue waits for another one.

    A turn is asked with everything before it, the answers given here included. After a turn that fails,
    the rest of its dialogue is not asked: it would be answered without its context.

    Args:
        dialogues: taken when the engine has room for another. None means that the next one is not there yet.
        on_delta: callback for the growing answers, except for the last chunk of each.
        expected: how many answers the progress bar expects; 0 if unknown.

    Yields:
        Each dialogue when it ends, with one answer for each of its turns. Only dialogues that have not
        ended are kept in memory.
    """
    running: dict[int, _Conversation] = {}
    without_turns: list[Dialogue] = []

    def requests() -> Iterator[Request | None]:
        index = 0
        for dialogue in dialogues:
            if dialogue is None:
                yield None
            elif dialogue.turns:
                running[index] = _Conversation(dialogue, options)
                yield running[index].request()
                index += 1
            else:
                without_turns.append(dialogue)

    def follow(index: int, answer: Answer) -> Request | None:
        return running[index].add(answer)

    for chunk in engine.stream(Expected(requests(), expected), follow, on_delta is not None):
        conversation = running[chunk.index]
        if chunk.answer is not None:
            if conversation.ended:
                yield conversation.dialogue, running.pop(chunk.index).all_answers()
        elif on_delta is not None:
            on_delta(conversation.dialogue, len(conversation.answers), chunk.text)
        while without_turns:
            yield without_turns.pop(), []
    for dialogue in without_turns:
        yield dialogue, []


def _whole(answer: Answer) -> Answer:
    """The surest answer that is not cut off; a failed one where all are."""
    whole = [one for one in (answer, *answer.others) if one.finish_reason != "length"]
    if whole:
        return replace(whole[0], others=tuple(whole[1:]))
    tokens = answer.usage.completion_tokens
    return Answer.failed(
        GenerationError(
            f"the answer is cut off after {tokens} tokens: raise max_new_tokens, or set on_length to keep"
        )
    )


def _not_asked(key: str) -> Answer:
    return Answer.failed(PromptError(f"skipped: an earlier turn failed (prompt {key!r})"))
