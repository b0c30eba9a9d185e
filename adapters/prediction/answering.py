"""Answers items through the engine, each as soon as all of its conversations are answered."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from adapters.items.annotations import as_dict
from adapters.items.item import Item
from adapters.items.provenance import Source
from adapters.prediction.failures import Failure
from engine.configuration import override
from engine.contract import Engine
from engine.conversation import converse
from engine.errors import AdapterError, ConfigurationError
from engine.options import GenerationOptions
from engine.types import Answer, Dialogue

# Returns an item's dialogues in the form that the model is asked, with retrieved context.
DialoguesOf = Callable[[Item], Sequence[Dialogue]]
# Called with an item, its answers in the order of its prompts, and its failures.
OnDone = Callable[[Item, list[dict[str, Any]], list[Failure]], object]
# Called with an item, a prompt's key, the answer's number among those to that prompt, and its new text.
OnItemDelta = Callable[[Item, str, int, str], object]


@dataclass(slots=True)
class _OpenItem:
    """An item whose conversations are being answered; `answers` is by the id of the dialogue."""

    item: Item
    dialogues: Sequence[Dialogue] = ()
    answers: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)

    def fail(self, key: str | None, error: AdapterError) -> None:
        self.failures.append(Failure(self.item.name, key, str(error)))

    def take(
        self,
        dialogue: Dialogue,
        answers: Sequence[Answer],
        model_name: str,
        source: Source,
        options: GenerationOptions,
    ) -> None:
        found = self.answers[id(dialogue)] = []
        for turn, answer in zip(dialogue.turns, answers, strict=True):
            if isinstance(answer.error, ConfigurationError):
                raise answer.error  # All answers have the same options, so the error concerns all.
            if answer.error is not None:
                self.fail(turn.key, answer.error)
                continue
            ranked = (answer, *answer.others)
            for rank, one in enumerate(ranked, 1):
                made = as_dict(
                    turn.key,
                    one,
                    model_name,
                    tokens=options.token_confidence,
                    reasoning=options.keep_reasoning,
                    provenance=source.provenance(one, rank, len(ranked)),
                )
                if options.refusals:
                    made["metadata"]["user"]["refusal"] = is_refusal(one.text, options.refusals)
                found.append(made)

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
    dialogues_of: DialoguesOf,
    on_delta: OnItemDelta | None = None,
    source: Source | None = None,
) -> None:
    """Answers every open turn of every item, taking items as the engine has room for them.

    Args:
        items: None means that the next item is not available yet.
        on_done: called with each item as soon as it has all its answers.
        model_name: the name in the metadata of the answers.
        options: the generation options of all answers.
        dialogues_of: returns the dialogues to answer of an item.
        on_delta: called with each new piece of an answer while it is generated.
        source: what the provenance of all answers says of the model and its options.

    Raises:
        ConfigurationError: an option that this model does not support.
    """
    # By the id() of the dialogue: equal dialogues are different conversations.
    asked: dict[int, _OpenItem] = {}
    # Of each turn, which of its key's answers it is: once for each dialogue, not for each delta.
    numbers: dict[int, list[int]] = {}
    source = source or Source(method=options.confidence)
    if options.token_confidence:
        options = override(options, {"logprobs": True})

    def dialogues() -> Iterator[Dialogue | None]:
        for item in items:
            if item is None:
                yield None
                continue
            started = _start(item, dialogues_of)
            if started.ended:
                started.leave(on_done)
            for dialogue in started.dialogues:
                asked[id(dialogue)] = started
                if on_delta is not None:
                    numbers[id(dialogue)] = _numbers(dialogue)
                yield dialogue

    def delta(dialogue: Dialogue, turn: int, text: str) -> None:
        assert on_delta is not None
        on_delta(asked[id(dialogue)].item, dialogue.turns[turn].key, numbers[id(dialogue)][turn], text)

    expected = _turns(items) if isinstance(items, Sequence) else 0
    for dialogue, answers in converse(engine, dialogues(), options, delta if on_delta else None, expected):
        started = asked.pop(id(dialogue))
        numbers.pop(id(dialogue), None)
        started.take(dialogue, answers, model_name, source, options)
        if started.ended:
            started.leave(on_done)


def is_refusal(text: str, refusals: Sequence[str]) -> bool:
    """Whether a text has one of the texts that tell a refusal, in any letter case."""
    folded = text.casefold()
    return any(refusal.casefold() in folded for refusal in refusals)


def _turns(items: Sequence[Item | None]) -> int:
    return sum(len(one.turns) for item in items if item is not None for one in item.dialogues)


def _numbers(dialogue: Dialogue) -> list[int]:
    counts = Counter[str]()
    numbers = []
    for turn in dialogue.turns:
        numbers.append(counts[turn.key])
        counts[turn.key] += 1
    return numbers


def _start(item: Item, dialogues_of: DialoguesOf) -> _OpenItem:
    started = _OpenItem(item)
    if item.error is not None:
        started.fail(None, item.error)
        return started
    try:
        # Copies: two items may share a dialogue, but answers are assigned to items by its identity.
        started.dialogues = [Dialogue(one.key, one.history, one.turns) for one in dialogues_of(item)]
    except AdapterError as error:
        started.fail(None, error)
        return started
    for key, reason in item.unreadable.items():
        started.fail(key, reason)
    return started
