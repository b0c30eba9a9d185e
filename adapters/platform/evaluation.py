"""A model's stored answers against people's, on the items of a dataset; the report becomes artifacts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from adapters.evaluation import MAX_ERRORS
from adapters.evaluation.answering import Answers, Judge, Judged, notes, require_truth
from adapters.evaluation.measures import MEASURES
from adapters.evaluation.truth import by_people
from adapters.items.stored import Record, by_turn, is_from_model, text_at
from adapters.platform import remote
from adapters.platform.flow import TOGETHER
from adapters.platform.uploads import classify

if TYPE_CHECKING:
    from adapters.evaluation.report import Report, Subject

# Points of a curve that the platform is sent.
POINTS = 50
# Figure, legend, x and y of a sample as `dl.PlotSample` takes them.
Sample = dict[str, Any]


def assessed(
    dataset_id: str, query: Record, model_name: str, subject: Subject, max_errors: Collection[float]
) -> Report:
    """The report on a model's stored answers.

    Args:
        query: selects items of the dataset.
        max_errors: error rates to find thresholds for, besides the usual ones.

    Raises:
        ConfigurationError: no right answer is known.
        RemoteError: items or annotations could not be listed.
    """
    from adapters.evaluation.report import assess

    judge = Judge(MEASURES[subject.measure], subject.right_from, subject.method)
    answers = judged(dataset_id, query, model_name, judge)
    require_truth(answers, None)
    methods = list(
        dict.fromkeys([subject.method, *(key for one in answers.judged for key in one.confidences)])
    )
    rates = sorted({*MAX_ERRORS, *max_errors})
    return assess(answers.judged, subject, methods, rates, notes(answers, methods, subject.measure))


def judged(dataset_id: str, query: Record, model_name: str, judge: Judge) -> Answers:
    """A model's answers on the items of a dataset, compared with what people have annotated there.

    They are matched by item and prompt key.

    Raises:
        RemoteError: items or annotations could not be listed.
    """
    found: list[Judged] = []
    without_truth = 0
    for items, found_on in items_with_answers(dataset_id, query):
        for item_id, records in found_on.items():
            truths = by_people(records)
            mine = classify([one for one in records if is_from_model(one, model_name)])
            for key, answers in mine.complete.items():
                if key in truths:
                    last = by_turn(answers)[-1][0]
                    name = text_at(items[item_id], "filename") or item_id
                    found.append(judge.judged(name, key, "", last, truths[key]))
                else:
                    without_truth += 1
    return Answers(found, without_truth, [])


def items_with_answers(
    dataset_id: str, query: Record
) -> Iterator[tuple[dict[str, Record], dict[str, list[Record]]]]:
    """Some items at a time by their ids, and by the id of an item all its annotations that may be answers.

    Raises:
        RemoteError: items or annotations could not be listed.
    """
    for page in remote.pages(dataset_id, query):
        for start in range(0, len(page), TOGETHER):
            some = page[start : start + TOGETHER]
            by_id = {str(item["id"]): item for item in some}
            condition = {"$and": [{"type": {"$in": ["text", "class"]}}, {"itemId": {"$in": list(by_id)}}]}
            found_on: dict[str, list[Record]] = defaultdict(list)
            for records in remote.pages(dataset_id, {"resource": "annotations", "filter": condition}):
                for record in records:
                    found_on[str(record.get("itemId"))].append(record)
            yield by_id, {item_id: found_on[item_id] for item_id in by_id if item_id in found_on}


def samples(report: Report) -> list[Sample]:
    """The report's figures as the platform's metrics: single numbers at x = 0, and curves."""
    from adapters.evaluation.report import curves

    figures = report.figures
    found = [_sample("accuracy", figures["measure"], 0, figures["accuracy"])]
    for method, values in figures["methods"].items():
        for name in ("auroc", "aurc", "prr"):
            estimate = values.get(name) or {"value": None}
            if estimate["value"] is not None:
                found.append(_sample(name, method, 0, estimate["value"]))
    for method, (shares, risks) in curves(report).items():
        for i in _spread(len(shares)):
            found.append(_sample("risk-coverage", method, float(shares[i]), float(risks[i])))
    if calibration := figures["calibration"]:
        for state in ("before", "after"):
            found.append(_sample("ece", state, 0, calibration[state]["ece"]))
            for one in calibration[state]["bins"]:
                found.append(_sample("reliability", state, one["confidence"], one["right"]))
    for threshold in figures["thresholds"]:
        found.append(_sample("accepted", "share", threshold["max_error"], threshold["accepted"]))
    return found


def _sample(figure: str, legend: str, x: float, y: float) -> Sample:
    return {"figure": figure, "legend": legend, "x": x, "y": y}


def _spread(count: int) -> Sequence[int]:
    return sorted({round(i * (count - 1) / (POINTS - 1)) for i in range(POINTS)}) if count else ()


def upload(report: Report, artifacts: Any) -> None:
    """Uploads the report's files to a model's artifacts, in the place of those of an earlier evaluation.

    Args:
        artifacts: the SDK's repository of the model.
    """
    from adapters.evaluation.files import write

    with TemporaryDirectory() as folder:
        write(report, Path(folder))
        artifacts.upload(filepath=str(Path(folder) / "*"), overwrite=True)
