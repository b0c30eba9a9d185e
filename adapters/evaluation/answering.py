"""Items → judged answers: each prompt with a true answer, what the model said, and how sure it was."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.evaluation.measures import Measure, available, best
from adapters.evaluation.truth import Truth, by_people, names_of
from adapters.items.item import Item
from adapters.items.stored import at, prompt_of
from adapters.prediction.batches import predict_batches, takes_one_by_one
from adapters.prediction.failures import Failure
from engine.errors import ConfigurationError

AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer whose right answers are known.

    Attributes:
        score: by the measure that decides, in [0, 1].
        right: whether the score is high enough.
        confidences: raw, by method; None where unknown.
        scores: by each measure that is installed.
    """

    item: str
    prompt: str
    question: str
    answer: str
    truths: tuple[str, ...]
    score: float
    right: bool
    confidences: Mapping[str, float | None]
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Answers:
    """What was asked.

    Attributes:
        judged: answers with a true one.
        without_truth: answers without.
        failures: prompts and items that have no answer.
    """

    judged: list[Judged]
    without_truth: int
    failures: list[Failure]


@dataclass(frozen=True, slots=True)
class Judge:
    """Decides which answers are right.

    Attributes:
        measure: gives the score that decides.
        right_from: the least score of a right answer.
        method: of the confidence that an answer is signed with.
    """

    measure: Measure
    right_from: float
    method: str

    def judged(
        self, item: str, prompt: str, question: str, answer: Mapping[str, Any], truths: tuple[str, ...]
    ) -> Judged:
        """Compares an answer, as `annotations.as_dict` has it, with the true ones."""
        text = answer["label"] if answer["type"] == "class" else answer["coordinates"]
        user = answer["metadata"]["user"]
        confidences = dict(at(user, "confidences") or {})
        confidences.setdefault(self.method, at(user, "model", "confidence"))
        known = {method: _known(value) for method, value in confidences.items()}
        score = best(self.measure, text, truths)
        scores = {name: best(measure, text, truths) for name, measure in available().items()}
        return Judged(
            item, prompt, question, text, truths, score, score >= self.right_from, known, scores
        )


def _known(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not math.isnan(value) else None


def items_of(paths: Iterable[str | Path]) -> Iterator[Mapping[str, Any] | Failure]:
    """The prompt items in files, and in the JSON files of folders; or why one cannot be read."""
    for path in map(Path, paths):
        for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
            try:
                content = json.loads(file.read_text(encoding="utf-8-sig"))
            except (OSError, ValueError, RecursionError) as error:
                yield Failure(str(file), None, f"it cannot be read ({error})")
                continue
            if isinstance(content, dict):
                yield {**content, "filename": str(file)}
            else:
                yield Failure(str(file), None, "it is no prompt item: a JSON object with 'prompts' is needed")


def answered(
    adapter: Any,
    items: Iterable[Mapping[str, Any] | Failure],
    truth: Truth | None,
    judge: Judge,
    name: str,
    options: Mapping[str, Any],
) -> Answers:
    """Answers items and judges each answer; of a prompt with several turns the last answer counts.

    Args:
        items: as JSON, "filename" and "annotations" included.
        truth: right answers; those that people have given in the items' annotations where it is None.
        name: what the model is called.
        options: generation options.

    Raises:
        ConfigurationError: an option or a measure that cannot be.
    """
    found = Answers([], 0, [])
    without = 0

    def opened() -> Iterator[Item]:
        for i, given in enumerate(items):
            if isinstance(given, Failure):
                found.failures.append(given)
            else:
                # Asked as if for the first time: people's answers are no part of the conversation.
                yield Item.of({key: value for key, value in given.items() if key != "annotations"}
                              | {"annotations": given.get("annotations") or []}, name, f"item {i + 1}")

    def done(item: Item, answers: list[dict[str, Any]], failures: list[Failure]) -> None:
        nonlocal without
        found.failures.extend(failures)
        people = by_people(item.answers) if truth is None else {}
        questions = {turn.key: turn.messages[-1].text for one in item.dialogues for turn in one.turns}
        last = {prompt_of(answer) or "": answer for answer in answers}
        for key, answer in last.items():
            truths = people.get(key, ()) if truth is None else truth.of(names_of(item.name), key)
            if truths:
                found.judged.append(judge.judged(item.name, key, questions.get(key, ""), answer, truths))
            else:
                without += 1

    if takes_one_by_one(adapter):
        adapter.answer(opened(), done, name, **options)
    else:
        predict_batches(adapter, opened(), done, name, AT_ONCE)
    return Answers(found.judged, without, found.failures)


def require_truth(answers: Answers, source: str) -> None:
    """Makes sure that there is something to evaluate.

    Raises:
        ConfigurationError: no answer has a true one; the text says what to do.
    """
    if answers.judged:
        return
    if not answers.without_truth:
        reasons = "; ".join(map(str, answers.failures[:3])) or "there are no items"
        raise ConfigurationError(f"nothing is answered, so nothing can be evaluated: {reasons}")
    raise ConfigurationError(
        f"none of {answers.without_truth} answers has a true one in {source}: a row needs the item's file name, "
        "the prompt's key and the answer"
        if source != ANNOTATIONS
        else f"none of {answers.without_truth} answers has a true one: have people annotate the prompts, or "
        "name a file of true answers"
    )


ANNOTATIONS = "the items' annotations"


def notes(answers: Answers, methods: Sequence[str]) -> list[str]:
    """What is left out, in sentences."""
    total = len(answers.judged) + answers.without_truth
    said = []
    if answers.without_truth:
        said.append(f"{answers.without_truth} of {total} answers have no true one and are left out")
    if answers.failures:
        first = "; ".join(map(str, answers.failures[:3]))
        said.append(f"{len(answers.failures)} prompts or items have no answer and are left out: {first}")
    for method in methods:
        unknown = sum(one.confidences.get(method) is None for one in answers.judged)
        if unknown:
            said.append(
                f"{unknown} of {len(answers.judged)} answers have no confidence by {method} (unknown, or not a "
                "number) and are left out of its figures"
            )
    return said
