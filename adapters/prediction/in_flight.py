"""Items that come one by one, each answered as soon as all of its conversations are."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from adapters.items.annotations import as_dict
from adapters.items.prompt_items import item_name
from adapters.prediction.failures import Failure
from engine.contract import Engine
from engine.conversation import InFlightEngine, converse_in_flight, converse_together
from engine.errors import AdapterError, ConfigurationError, PromptError
from engine.options import GenerationOptions
from engine.types import Answer, Dialogue

logger = logging.getLogger(__name__)

# An item's JSON and the model's name → its dialogues, and what of it cannot be asked, by prompt key.
Read = Callable[[Mapping[str, Any], str], tuple[list[Dialogue], Mapping[str, AdapterError]]]
# Told an item's position, its answers in the order of its prompts, and what of it has none.
Done = Callable[[int, list[dict[str, Any]], list[Failure]], object]
# Told an item's position, a prompt's key, which of its turns it is, and what the answer has grown by.
Grown = Callable[[int, str, int, str], object]


@dataclass(slots=True)
class _Open:
    """An item on its way: by dialogue, its answers; None while it has none."""

    position: int
    name: str
    dialogues: list[Dialogue] = field(default_factory=list)
    answers: list[list[dict[str, Any]] | None] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def fail(self, key: str | None, error: AdapterError) -> None:
        self.failures.append(Failure(self.position, self.name, key, str(error)))

    def take(self, number: int, answers: list[Answer], signed: str) -> None:
        """Its dialogue `number` has been answered."""
        found = self.answers[number] = []
        for turn, answer in zip(self.dialogues[number].turns, answers, strict=True):
            if isinstance(answer.error, ConfigurationError):
                raise answer.error  # All have the same options: it is wrong for all of them.
            if answer.error is None:
                found.append(as_dict(turn.key, answer, signed))
            else:
                self.fail(turn.key, answer.error)

    @property
    def found(self) -> list[dict[str, Any]]:
        """Its answers so far, in the order of its prompts."""
        return [one for answers in self.answers for one in answers or ()]

    @property
    def ended(self) -> bool:
        return None not in self.answers


def answer_all(
    engine: Engine, batch: Iterable[Mapping[str, Any]], signed: str, options: GenerationOptions, read: Read
) -> tuple[list[list[dict[str, Any]]], list[Failure]]:
    """The answers to every open turn of each item, all of them together, and what has none.

    Raises:
        ConfigurationError: an option that this model does not take.
    """
    items = [_opened(content, position, signed, read) for position, content in enumerate(batch)]
    failures = [failure for item in items for failure in item.failures]
    asked = [(item, number, dialogue) for item in items for number, dialogue in enumerate(item.dialogues)]
    answered = converse_together(engine, [dialogue for _, _, dialogue in asked], options)
    for (item, number, _), answers in zip(asked, answered, strict=True):
        known = len(item.failures)
        item.take(number, answers, signed)
        failures += item.failures[known:]
    return [item.found for item in items], failures


def answer_each(
    engine: InFlightEngine,
    items: Iterable[Mapping[str, Any] | None],
    done: Done,
    signed: str,
    options: GenerationOptions,
    read: Read,
    grown: Grown | None = None,
) -> None:
    """Answers every open turn of every item, taking items as the engine has room for them.

    Args:
        items: prompt items as their JSON; None says that the next one is not there yet.
        signed: the name of the model.

    Raises:
        ConfigurationError: an option that this model does not take.
    """
    asked: dict[int, tuple[_Open, int]] = {}
    # By dialogue: of each turn, which of its key's answers it is.
    numbers: dict[int, list[int]] = {}

    def end(item: _Open) -> None:
        done(item.position, item.found, item.failures)

    def dialogues() -> Iterator[Dialogue | None]:
        place = position = 0
        for content in items:
            if content is None:
                yield None
                continue
            item = _opened(content, position, signed, read)
            position += 1
            if item.ended:
                end(item)
            for number, dialogue in enumerate(item.dialogues):
                asked[place] = item, number
                if grown is not None:
                    numbers[place] = _numbers(dialogue)
                place += 1
                yield dialogue

    def told(place: int, turn: int, text: str) -> None:
        item, number = asked[place]
        if grown is not None:
            grown(item.position, item.dialogues[number].turns[turn].key, numbers[place][turn], text)

    answered = converse_in_flight(engine, dialogues(), options, told if grown else None)
    for place, answers in answered:
        item, number = asked.pop(place)
        numbers.pop(place, None)
        item.take(number, answers, signed)
        if item.ended:
            end(item)


def _numbers(dialogue: Dialogue) -> list[int]:
    counts = Counter[str]()
    numbers = []
    for turn in dialogue.turns:
        numbers.append(counts[turn.key])
        counts[turn.key] += 1
    return numbers


def _opened(content: Mapping[str, Any], position: int, signed: str, read: Read) -> _Open:
    item = _Open(position, item_name(content, f"item {position + 1}"))
    try:
        item.dialogues, unreadable = read(content, signed)
    except AdapterError as error:
        item.fail(None, error)
        return item
    except Exception as error:  # Nested too deep, say: whatever it holds, the other items are answered.
        logger.debug("an item could not be read", exc_info=True)
        item.fail(None, PromptError(f"it could not be read ({type(error).__name__}): look at its JSON"))
        return item
    item.answers = [None] * len(item.dialogues)
    for key, error in unreadable.items():
        item.fail(key, error)
    return item
