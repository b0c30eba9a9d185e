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
from adapters.items.stored import answer_of, get_path, is_from_model, prompt_of, rank_of
from adapters.prediction.batches import accepts_stream, predict_batches
from adapters.prediction.failures import Failure, left_out
from engine.errors import ConfigurationError

AT_ONCE = 8
READ = "evaluate reads prompt items, .json files or folders of them"


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer whose right answers are known.

    Attributes:
        score: by the measure that decides, in [0, 1].
        right: whether the score is high enough.
        confidences: raw, by method; None where unknown.
        scores: by each measure that is installed.
        refusal: whether the answer is a refusal by the option `refusals`; None where that is not set.
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
    refusal: bool | None = None


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
        method: of the confidence in an answer's metadata.
    """

    measure: Measure
    right_from: float
    method: str

    def judged(
        self, item: str, prompt: str, question: str, answer: Mapping[str, Any], truths: tuple[str, ...]
    ) -> Judged:
        """Compares an answer, as `annotations.as_dict` has it, with the true ones."""
        text = answer_of(answer) or ""
        user = answer["metadata"]["user"]
        confidences = dict(get_path(user, "confidences") or {})
        confidences.setdefault(self.method, get_path(user, "model", "confidence"))
        known = {method: _known(value) for method, value in confidences.items()}
        score = best(self.measure, text, truths)
        scores = {name: best(measure, text, truths) for name, measure in available().items()}
        right, refusal = score >= self.right_from, get_path(user, "refusal")
        refused = refusal if isinstance(refusal, bool) else None
        return Judged(item, prompt, question, text, truths, score, right, known, scores, refused)


def _known(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not math.isnan(value) else None


def read_items(given: Iterable[str | Path | Mapping[str, Any]]) -> Iterator[Mapping[str, Any] | Failure]:
    """Prompt items as JSON, from mappings, files, or folders of .json files; or why one cannot be read."""
    for one in given:
        if isinstance(one, Mapping):
            yield one
            continue
        path = Path(one)
        for file in sorted(path.rglob("*.json")) if path.is_dir() else [path]:
            try:
                content = json.loads(file.read_text(encoding="utf-8-sig"))
            except OSError as error:
                yield Failure(str(file), None, f"it cannot be read ({error.strerror})")
                continue
            except (ValueError, RecursionError) as error:
                yield Failure(str(file), None, f"it is not JSON ({error}): {READ}")
                continue
            if isinstance(content, dict):
                yield {**content, "filename": str(file)}
            else:
                yield Failure(
                    str(file), None, "it is not a prompt item: a JSON object with 'prompts' is needed"
                )


def answered(
    adapter: Any,
    items: Iterable[Mapping[str, Any] | Failure],
    truth: Truth | None,
    judge: Judge,
    name: str,
    options: Mapping[str, Any],
) -> Answers:
    """Answers items and judges each answer; of a prompt with several turns the last one counts.

    Args:
        items: as JSON, "filename" and "annotations" included.
        truth: right answers; None: those of people in the items' annotations.
        name: the model's name.
        options: generation options.

    Raises:
        ConfigurationError: an invalid option or measure.
    """
    judged: list[Judged] = []
    failed: list[Failure] = []
    without_truth = 0

    def opened() -> Iterator[Item]:
        for i, given in enumerate(items):
            if isinstance(given, Failure):
                failed.append(given)
            else:
                # Otherwise its own earlier answers would be part of the conversation.
                people = [one for one in given.get("annotations") or [] if not is_from_model(one, name)]
                yield Item.of({**given, "annotations": people}, name, f"item {i + 1}")

    def done(item: Item, answers: list[dict[str, Any]], failures: list[Failure]) -> None:
        nonlocal without_truth
        failed.extend(failures)
        people = by_people(item.answers)
        last = {prompt_of(answer) or "": answer for answer in answers if rank_of(answer) == 1}
        for key, answer in last.items():
            truths = people.get(key, ()) if truth is None else truth.of(names_of(item.name), key)
            if truths:
                judged.append(judge.judged(item.name, key, questions_of(item).get(key, ""), answer, truths))
            else:
                without_truth += 1

    if accepts_stream(adapter):
        adapter.answer(opened(), done, name, **options)
    else:
        predict_batches(adapter, opened(), done, name, AT_ONCE)
    return Answers(judged, without_truth, failed)


def questions_of(item: Item) -> dict[str, str]:
    """The last message of each open prompt of an item, by the prompt's key."""
    return {turn.key: turn.messages[-1].text for one in item.dialogues for turn in one.turns}


def require_truth(answers: Answers, source: str | None) -> None:
    """Checks that there is something to evaluate.

    Args:
        source: the file of true answers; None: the items' annotations.

    Raises:
        ConfigurationError: no right answer is known; the text says what to do.
    """
    if answers.judged:
        return
    if not answers.without_truth:
        reasons = "; ".join(map(str, answers.failures[:3])) or "there are no items"
        raise ConfigurationError(f"nothing is answered, so nothing can be evaluated: {reasons}")
    hint = (
        f"no row of {source} has the item's file name and the prompt's key of one of them"
        if source
        else "have people annotate them, or name a file of right answers"
    )
    raise ConfigurationError(f"the right answer to none of {answers.without_truth} prompts is known: {hint}")


def notes(answers: Answers, methods: Sequence[str], measure: str) -> list[str]:
    """What is left out, in sentences, and what may be wrong with a measure by which nothing is right."""
    total = len(answers.judged) + answers.without_truth
    said = []
    if not any(one.right for one in answers.judged):
        said += _other_measure(answers.judged, measure)
    if answers.without_truth:
        counted = f"{answers.without_truth} of {total} answers"
        said.append(f"left out, because no right answer is known: {counted}")
    if answers.failures:
        said.append(left_out(answers.failures))
    for method in methods:
        unknown = sum(one.confidences.get(method) is None for one in answers.judged)
        if unknown:
            said.append(
                f"{unknown} of {len(answers.judged)} answers have no confidence by {method} (unknown, or "
                "not a number) and are left out of its figures"
            )
    return said


def _other_measure(judged: Sequence[Judged], measure: str) -> list[str]:
    means = {name: sum(one.scores[name] for one in judged) / len(judged) for name in judged[0].scores}
    other, mean = max(means.items(), key=lambda item: item[1])
    hint = f"no answer is right by {measure}; by {other} the mean score is {mean:.2f}: choose by --measure"
    return [hint] if mean else []
