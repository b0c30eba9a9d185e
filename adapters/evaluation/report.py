"""What the judged answers say: figures by method, a calibration, thresholds, and answers to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from adapters.evaluation import fitting, guarantee
from adapters.evaluation.answering import Judged
from adapters.evaluation.discrimination import Bools, Floats, estimates, risk_coverage
from adapters.evaluation.reliability import bins, brier, ece
from adapters.prediction.failures import Failure
from engine.confidence.calibration import FILE, Calibration

# Rows of each table of answers to read.
TO_READ = 20


@dataclass(frozen=True, slots=True)
class Subject:
    """What was evaluated.

    Attributes:
        model: its name.
        options: as `calibrated.described` has them.
        measure: the name of the measure that decides.
        right_from: the least score of a right answer.
        method: of the confidence that is calibrated.
    """

    model: str
    options: Mapping[str, Any]
    measure: str
    right_from: float
    method: str


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of an evaluation.

    Attributes:
        figures: all figures, as JSON: what report.json holds.
        judged: the answers.
        calibration: None if the answers are too few or too similar, or none is of use; `figures["notes"]`
            says why.
        failures: prompts and items that have no answer.
    """

    figures: dict[str, Any]
    judged: Sequence[Judged]
    calibration: Calibration | None
    failures: Sequence[Failure] = ()


def assess(
    judged: Sequence[Judged],
    subject: Subject,
    methods: Sequence[str],
    max_errors: Sequence[float],
    notes: Sequence[str] = (),
    failures: Sequence[Failure] = (),
) -> Report:
    """All figures of judged answers.

    Args:
        judged: at least one.
        methods: of confidence, whose figures are compared.
        max_errors: error rates that thresholds are found for.
        notes: sentences at the top of the report.
        failures: prompts and items that have no answer.
    """
    said = list(notes)
    right = sum(one.right for one in judged)
    figures: dict[str, Any] = {
        **asdict(subject),
        "n": len(judged),
        "right": right,
        "accuracy": right / len(judged),
        "scores": {name: float(np.mean([one.scores[name] for one in judged])) for name in judged[0].scores},
        "notes": said,
        "methods": {name: _discrimination(judged, name) for name in methods},
        "calibration": None,
        "thresholds": [],
    }
    calibration = None
    raw, correct, known = _known(judged, subject.method)
    if len(known):
        found = [guarantee.threshold(raw, correct, rate) for rate in max_errors]
        figures["thresholds"] = [
            asdict(one) | {"sentence": guarantee.sentence(one, raw, correct)} for one in found
        ]
        reason = fitting.too_few(correct)
        if reason is None:
            fit = fitting.fit(raw, correct)
            compared = _calibration(fit, raw, correct)
            thresholds = any(one.threshold is not None for one in found)
            method, points = fit.method, fit.points
            if all(compared["after"][figure] < compared["before"][figure] for figure in ("ece", "brier")):
                figures["calibration"] = compared
            else:
                said.append(_no_improvement(compared, len(correct), thresholds))
                method, points = "none", ((0.0, 0.0), (1.0, 1.0))
            if figures["calibration"] or thresholds:
                calibration = Calibration(
                    method,
                    points,
                    len(correct),
                    subject.method,
                    subject.measure,
                    tuple(found),
                    subject.model,
                    subject.options,
                )
        else:
            said.append(f"no calibration: {reason}")
    else:
        said.append(f"no calibration: no answer has a confidence by {subject.method}")
    order = np.argsort(raw, kind="stable")
    figures["confident_mistakes"] = [_row(known[i], raw[i]) for i in order[::-1] if not known[i].right][
        :TO_READ
    ]
    figures["unsure_right"] = [_row(known[i], raw[i]) for i in order if known[i].right][:TO_READ]
    return Report(figures, judged, calibration, failures)


def curves(report: Report) -> dict[str, tuple[Floats, Floats]]:
    """The risk-coverage curve of each method that has one: shares accepted and error rates."""
    found = {}
    for name in report.figures["methods"]:
        confidence, right, known = _known(report.judged, name)
        if len(known):
            found[name] = risk_coverage(confidence, right)
    return found


def _known(judged: Sequence[Judged], method: str) -> tuple[Floats, Bools, list[Judged]]:
    """The confidences that are known, whether these answers are right, and the answers."""
    pairs = [(value, one) for one in judged if (value := one.confidences.get(method)) is not None]
    confidence = np.array([value for value, _ in pairs], dtype=np.float64)
    return confidence, np.array([one.right for _, one in pairs], dtype=bool), [one for _, one in pairs]


def _discrimination(judged: Sequence[Judged], method: str) -> dict[str, Any]:
    confidence, right, known = _known(judged, method)
    if not known:
        return {"n": 0}
    found = {name: asdict(estimate) for name, estimate in estimates(confidence, right).items()}
    return {"n": len(known), **found, "ece": ece(confidence, right), "brier": brier(confidence, right)}


def _calibration(fit: fitting.Fit, raw: Floats, right: Bools) -> dict[str, Any]:
    def state(confidence: Floats) -> dict[str, Any]:
        return {
            "ece": ece(confidence, right),
            "brier": brier(confidence, right),
            "bins": [asdict(one) for one in bins(confidence, right)],
        }

    return {
        "method": fit.method,
        "brier_by_method": fit.brier,
        "before": state(raw),
        "after": state(fit.held_out),
    }


def _no_improvement(compared: Mapping[str, Any], n: int, thresholds: bool) -> str:
    """Why a fitted calibration is not used, and what to do.

    Args:
        thresholds: whether there is one, so that calibration.json is written all the same.
    """
    kept = f"; {FILE} has the thresholds, and leaves confidences as they are" if thresholds else ""
    figures = "; ".join(
        f"{name} {compared['after'][key]:.3f}, raw {compared['before'][key]:.3f}"
        for name, key in (("ECE", "ece"), ("Brier", "brier"))
    )
    return (
        f"no calibration: {compared['method']} is no improvement on answers that it was not fitted to "
        f"({figures}): label more than these {n}{kept}"
    )


def _row(one: Judged, confidence: float) -> dict[str, Any]:
    return {
        "item": one.item,
        "prompt": one.prompt,
        "question": one.question,
        "answer": one.answer,
        "truth": one.truths[0],
        "confidence": float(confidence),
    }
