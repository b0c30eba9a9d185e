"""Calibration: the raw confidence of an answer → the share of such answers that are right.

Fitted by `adapters.evaluation` and kept as `calibration.json`. Applying it needs nothing beyond Python.
"""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

from engine.errors import ConfigurationError

FILE = "calibration.json"
# The name of the calibrated number among the values of the option `confidence`.
CALIBRATED = "calibrated"


@dataclass(frozen=True, slots=True)
class Threshold:
    """The smallest confidence at which an answer is accepted, for an error rate.

    Attributes:
        max_error: of the accepted answers, at most this share is wrong.
        certainty: the probability that the promise holds, over the draw of the labelled answers.
        threshold: raw confidence; None where the labelled answers support no threshold.
        accepted: the share of the labelled answers that it accepts.
    """

    max_error: float
    certainty: float
    threshold: float | None
    accepted: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """A map from the raw confidence to a calibrated one, with thresholds for acceptance.

    Attributes:
        method: how the map was fitted: "isotonic", "platt" or "histogram"; "none" changes nothing.
        points: (raw, calibrated) by ascending raw confidence; linear between them, constant outside. Two
            points with one raw confidence are a step.
        n: labelled answers that it was fitted to.
        confidence: the method of the raw confidence.
        measure: what made an answer a right one.
        thresholds: one for each error rate.
        model: what it was fitted for.
        options: the options, as JSON, that it was fitted for.
    """

    method: str
    points: tuple[tuple[float, float], ...]
    n: int
    confidence: str
    measure: str
    thresholds: tuple[Threshold, ...]
    model: str
    options: Mapping[str, Any]

    def apply(self, raw: float) -> float:
        """The calibrated confidence, in [0, 1], of a raw one."""
        raws = [point[0] for point in self.points]
        i = bisect_right(raws, raw)
        if i == 0 or i == len(raws):
            return self.points[min(i, len(raws) - 1)][1]
        (left, low), (right, high) = self.points[i - 1], self.points[i]
        return low + (high - low) * (raw - left) / (right - left)

    def accepts(self, raw: float, max_error: float) -> bool:
        """Whether an answer is accepted at an error rate; False where no threshold holds it.

        Raises:
            ConfigurationError: it was not fitted for this error rate.
        """
        threshold = self._threshold(max_error).threshold
        return threshold is not None and raw >= threshold

    def check(self, max_error: float | None) -> None:
        """Makes sure that it has a threshold for an error rate, where one is asked for.

        Raises:
            ConfigurationError: it was not fitted for this error rate.
        """
        if max_error is not None:
            self._threshold(max_error)

    def _threshold(self, max_error: float) -> Threshold:
        for threshold in self.thresholds:
            if math.isclose(threshold.max_error, max_error):
                return threshold
        fitted = ", ".join(f"{threshold.max_error:g}" for threshold in self.thresholds)
        raise ConfigurationError(
            f"option 'max_error': {FILE} has no threshold for {max_error:g}, but for {fitted or 'none'}: "
            f"evaluate again with --max-error {max_error:g}"
        )

    def differences(self, model: str, options: Mapping[str, Any]) -> list[str]:
        """What a model and its options have otherwise than those that it was fitted for; empty: nothing."""
        found = [] if model == self.model else [f"model: {model!r}, not {self.model!r}"]
        for key in sorted(self.options.keys() | options.keys()):
            now, then = options.get(key), self.options.get(key)
            if now != then:
                found.append(f"{key}: {now!r}, not {then!r}")
        return found

    def save(self, path: Path) -> None:
        """Writes it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads what `save` wrote.

        Raises:
            ConfigurationError: it is something else; the text says what to do.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            points = _points(values.pop("points"))
            thresholds = tuple(Threshold(**threshold) for threshold in values.pop("thresholds"))
            return cls(points=points, thresholds=thresholds, **values)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ConfigurationError(
                f"{path.name} is not a calibration ({type(error).__name__}): remove it, or evaluate again"
            ) from error


def _points(given: Sequence[Sequence[float]]) -> tuple[tuple[float, float], ...]:
    points = tuple((float(raw), float(calibrated)) for raw, calibrated in given)
    ascending = all(one[0] <= other[0] for one, other in pairwise(points))
    if not points or not ascending or not all(0 <= number <= 1 for point in points for number in point):
        raise ValueError("points of a calibration ascend, in [0, 1]")
    return points
