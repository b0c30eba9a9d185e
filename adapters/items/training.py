"""Corrected prompt items → training data, as lines in the conversational forms that trl's trainers read.

A correction is an answer by a person, without a model's name, beside the model's. Pure: no SDK, no network.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adapters.evaluation.truth import by_people
from adapters.items.item import Item
from adapters.items.stored import answer_of, by_turn, get_path, prompt_of, text_at, upload_tag
from adapters.prediction.failures import Failure, left_out
from engine.errors import ConfigurationError
from engine.types import Dialogue, Image, Message, Turn

Line = dict[str, Any]
# Messages in OpenAI's form.
Chat = list[dict[str, str]]
# Why a person's answer is in no line.
_UNUSED = (
    "a person's answer to it is not used: no question has this key, one before it has no answer, or its "
    "conversation has an image"
)


@dataclass(frozen=True, slots=True)
class CorrectedTurn:
    """A turn with the answer that a person has given.

    Attributes:
        key: the key of its prompt.
        prompt: the messages before the answer.
        rejected: what models have answered otherwise, the surest first.
    """

    key: str
    prompt: Chat
    chosen: str
    rejected: tuple[str, ...]


@dataclass(slots=True)
class Export:
    """What has become of the items.

    Attributes:
        items: how many were read.
        corrected: how many turns a person has answered.
        lines: how many lines were written.
        failures: items and prompts that are left out, and why.
    """

    items: int = 0
    corrected: int = 0
    lines: int = 0
    failures: list[Failure] = field(default_factory=list)

    def notes(self) -> list[str]:
        """What was written, and what is left out, in sentences."""
        said = [f"{self.lines} lines of {self.corrected} corrected answers on {self.items} items"]
        if self.failures:
            said.append(left_out(self.failures))
        return said


def lines(items: Iterable[Mapping[str, Any] | Failure], form: str, export: Export) -> Iterator[Line]:
    """The lines of prompt items.

    Args:
        items: their JSON with "annotations" and "filename", or why one cannot be read.
        form: a name of `FORMS`.
        export: gets the counts and what is left out.
    """
    for i, given in enumerate(items):
        export.items += 1
        if isinstance(given, Failure):
            export.failures.append(given)
            continue
        annotations = given.get("annotations")
        # Without them all turns are open.
        content = {key: value for key, value in given.items() if key != "annotations"}
        item = Item.of(content, "", f"item {i + 1}")
        if item.error is not None:
            export.failures.append(Failure(item.name, None, str(item.error)))
        export.failures += [Failure(item.name, key, str(error)) for key, error in item.unreadable.items()]
        answers = _Answers(annotations if isinstance(annotations, list) else [])
        unused = answers.corrected
        for dialogue in item.dialogues:
            turns = list(_corrected(dialogue, answers))
            export.corrected += len(turns)
            unused -= {turn.key for turn in turns}
            for line in FORMS[form](turns):
                export.lines += 1
                yield line
        export.failures += [Failure(item.name, key, _UNUSED) for key in sorted(unused)]


def write(items: Iterable[Mapping[str, Any] | Failure], form: str, path: Path) -> Export:
    """Writes the lines of prompt items to a file, in the place of an earlier one.

    Raises:
        ConfigurationError: there is no line to write, or the file cannot be written; an earlier one stays.
    """
    export, part = Export(), path.with_name(path.name + ".part")
    try:
        with part.open("w", encoding="utf-8") as file:
            for line in lines(items, form, export):
                # Halves of surrogate pairs are no text to the readers of such files.
                clean = json.dumps(line, ensure_ascii=False).encode("utf-8", "replace")
                file.write(json.dumps(json.loads(clean)) + "\n")
        if export.lines:
            part.replace(path)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)
    if not export.lines:
        notes = "; ".join(export.notes())
        raise ConfigurationError(
            f"there is nothing to write ({notes}): have people annotate the prompts with right answers; a "
            "pair also needs a model's answer that differs"
        )
    return export


def _pairs(turns: Sequence[CorrectedTurn]) -> Iterator[Line]:
    """A line for each answer that a person has rejected by giving another one."""
    for turn in turns:
        for rejected in turn.rejected:
            yield {"prompt": turn.prompt, "chosen": [_said(turn.chosen)], "rejected": [_said(rejected)]}


def _conversations(turns: Sequence[CorrectedTurn]) -> Iterator[Line]:
    """A line for each conversation, up to the last answer that a person has given."""
    for turn in turns[-1:]:
        yield {"messages": [*turn.prompt, _said(turn.chosen)]}


FORMS: Mapping[str, Callable[[Sequence[CorrectedTurn]], Iterator[Line]]] = {
    "chosen_rejected": _pairs,
    "sft": _conversations,
}


class _Answers:
    """The answers on an item: those of people, and those of models, turn by turn."""

    def __init__(self, annotations: Sequence[Any]) -> None:
        ordered = sorted(annotations, key=lambda one: text_at(one, "createdAt") or "")
        self._people = by_people(ordered)
        found: dict[tuple[str, str], list[Any]] = defaultdict(list)
        for one in sorted(ordered, key=lambda one: upload_tag(one).get("number", 0)):
            key, model = prompt_of(one), _model_of(one)
            if key is not None and model is not None and answer_of(one) and not upload_tag(one).get("draft"):
                found[key, model].append(one)
        self._models = {names: by_turn(answers) for names, answers in found.items()}

    @property
    def corrected(self) -> set[str]:
        """The keys of the prompts that people have answered."""
        return set(self._people)

    def by_person(self, key: str, number: int, count: int) -> str | None:
        """A person's answer to a turn; the last one where there are several to one turn.

        Args:
            number: which of the `count` turns of its key it is. With fewer answers than turns, the last
                answer is to the last turn.
        """
        given = self._people.get(key, ())
        if 1 < count == len(given):
            return given[number]
        return given[-1] if given and number == count - 1 else None

    def by_models(self, key: str, number: int) -> list[str]:
        """The answers of models to a turn, the surest of each first."""
        turns = [
            turns[number]
            for (asked, _), turns in self._models.items()
            if asked == key and number < len(turns)
        ]
        return [text for turn in turns for one in turn if (text := answer_of(one))]


def _corrected(dialogue: Dialogue, answers: _Answers) -> Iterator[CorrectedTurn]:
    """The turns of a dialogue that a person has answered, each with what was said before it.

    Before a turn stand the corrected answers, and the models' where there is no correction. What follows an
    image, or a turn without any answer, is left out.
    """
    chat: Chat = [{"role": message.role, "content": message.text} for message in dialogue.history]
    images = _has_image(dialogue.history)
    numbers: dict[str, int] = defaultdict(int)
    for turn in dialogue.turns:
        number, count = numbers[turn.key], _count(dialogue, turn)
        numbers[turn.key] += 1
        chat += [{"role": message.role, "content": message.text} for message in turn.messages]
        images |= _has_image(turn.messages)
        chosen = answers.by_person(turn.key, number, count)
        said = answers.by_models(turn.key, number)
        if chosen is not None and not images:
            others = dict.fromkeys(text for text in said if text.strip() != chosen.strip())
            yield CorrectedTurn(turn.key, list(chat), chosen, tuple(others))
        if chosen is None and not said:
            return  # What follows has no context.
        chat.append(_said(said[0] if chosen is None else chosen))


def _count(dialogue: Dialogue, turn: Turn) -> int:
    return sum(one.key == turn.key for one in dialogue.turns)


def _has_image(messages: Sequence[Message]) -> bool:
    return any(isinstance(part, Image) for message in messages for part in message.parts)


def _said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _model_of(annotation: Any) -> str | None:
    names = (text_at(annotation, "metadata", by, "model", "name") for by in ("user", "system"))
    signed = any(get_path(annotation, "metadata", by, "model") for by in ("user", "system"))
    return next(filter(None, names), "") if signed else None
