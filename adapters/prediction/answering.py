"""Answers items through the engine, each as soon as all of its conversations are answered."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapters.items.annotations import as_dict
from adapters.items.item import Item
from adapters.prediction.failures import Failure
from engine.configuration import override
from engine.contract import Engine
from engine.conversation import converse
from engine.errors import AdapterError, ConfigurationError
from engine.options import GenerationOptions
from engine.types import Answer, Dialogue

# Gives an item's dialogues as the model is asked them.
Opened = Callable[[Item], Sequence[Dialogue]]
# Takes an item, its answers in the order of its prompts, and what of it has none.
OnDone = Callable[[Item, list[dict[str, Any]], list[Failure]], object]
# Takes an item, a prompt's key, which of that key's answers it is, and the text that the answer has grown by.
OnDelta = Callable[[Item, str, int, str], object]


@dataclass(slots=True)
class _Open:
    """An item whose conversations are being answered; `answers` is by the id of the dialogue."""

    item: Item
    dialogues: Sequence[Dialogue] = ()
    answers: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    def fail(self, key: str | None, error: AdapterError) -> None:
        self.failures.append(Failure(self.item.name, key, str(error)))

    def take(self, dialogue: Dialogue, answers: Sequence[Answer], model_name: str, tokens: bool) -> None:
        found = self.answers[id(dialogue)] = []
        for turn, answer in zip(dialogue.turns, answers, strict=True):
            if isinstance(answer.error, ConfigurationError):
                raise answer.error  # All have the same options: it is wrong for all of them.
            if answer.error is None:
                found.append(as_dict(turn.key, answer, model_name, tokens))
            else:
                self.fail(turn.key, answer.error)

    @property
    def ended(self) -> bool:
        return len(self.answers) == len(self.dialogues)

    def leave(self, on_done: OnDone) -> None:
        found = [answer for dialogue in self.dialogues for answer in self.answers[id(dialogue)]]
        on_done(self.item, found, self.failures)


def answer(
    engine: Engine,
    items: Iterable[Item | None],
    on_done: OnDone,
    model_name: str,
    options: GenerationOptions,
    opened: Opened,
    on_delta: OnDelta | None = None,
) -> None:
    """Answers every open turn of every item, taking items as the engine has room for them.

    Args:
        items: None says that the next one is not there yet.
        on_done: takes each item as soon as it has all its answers.
        model_name: the answers are signed with it.
        on_delta: takes what each answer grows by while it is written.

    Raises:
        ConfigurationError: an option that this model does not take.
    """
    # By the id of the dialogue: equal ones are different conversations.
    asked: dict[int, _Open] = {}
    if options.token_confidence:
        options = override(options, {"logprobs": True})

    def dialogues() -> Iterator[Dialogue | None]:
        for item in items:
            if item is None:
                yield None
                continue
            began = _open(item, opened)
            if began.ended:
                began.leave(on_done)
            for dialogue in began.dialogues:
                asked[id(dialogue)] = began
                yield dialogue

    def delta(dialogue: Dialogue, turn: int, text: str) -> None:
        assert on_delta is not None
        key = dialogue.turns[turn].key
        before = Counter(turn.key for turn in dialogue.turns[:turn])
        on_delta(asked[id(dialogue)].item, key, before[key], text)

    for dialogue, answers in converse(engine, dialogues(), options, delta if on_delta else None):
        began = asked.pop(id(dialogue))
        began.take(dialogue, answers, model_name, options.token_confidence)
        if began.ended:
            began.leave(on_done)


def _open(item: Item, opened: Opened) -> _Open:
    began = _Open(item)
    if item.error is not None:
        began.fail(None, item.error)
        return began
    try:
        # Copies: two items may share a dialogue, and it is told by its identity whose answers came.
        began.dialogues = [Dialogue(one.key, one.history, one.turns) for one in opened(item)]
    except AdapterError as error:
        began.fail(None, error)
        return began
    for key, reason in item.unreadable.items():
        began.fail(key, reason)
    return began
