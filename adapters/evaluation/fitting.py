"""Fits the map from a raw confidence to a calibrated one; scikit-learn is needed here only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from adapters.evaluation.discrimination import Bools, Floats
from adapters.evaluation.reliability import brier

Points = tuple[tuple[float, float], ...]
FOLDS = 5
# The least number of labelled answers, and of right and of wrong ones among them.
MIN_ANSWERS = 30
MIN_EACH = FOLDS
HISTOGRAM_BINS = 10
PLATT_POINTS = 65
# Log-odds of a confidence of 1 are infinite.
_LEAST = 1e-9


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted map.

    Attributes:
        method: "isotonic", "platt" or "histogram".
        points: as `Calibration.points`.
        held_out: the calibrated confidence of each answer by a map that was fitted without its fold, (n,).
        brier: by method, the Brier score of its held-out confidences.
    """

    method: str
    points: Points
    held_out: Floats
    brier: dict[str, float]


def too_few(right: Bools) -> str | None:
    """Why no map can be fitted to these answers, and what to do; None where it can."""
    n, kept = len(right), int(right.sum())
    if n < MIN_ANSWERS:
        return f"{n} answers are too few for a calibration: label at least {MIN_ANSWERS - n} more"
    if kept in (0, n):
        which, other = ("right", "wrong") if kept else ("wrong", "right")
        return f"all {n} answers are {which}: add items that the model gets {other}"
    if min(kept, n - kept) < MIN_EACH:
        which, few = ("right", kept) if kept < n - kept else ("wrong", n - kept)
        return f"only {few} of {n} answers are {which}, {MIN_EACH} are needed for a calibration: label more"
    return None


def fit(confidence: Floats, right: Bools, seed: int = 0) -> Fit:
    """The map with the least Brier score in a cross-validation of 5 folds, fitted to all answers.

    Args:
        confidence: raw, float64 (n,).
        right: bool (n,), of which `too_few` says nothing.
    """
    from sklearn.model_selection import StratifiedKFold

    folds = list(StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(confidence, right))
    held_out = {name: np.empty(len(right)) for name in FITTERS}
    for name, fitter in FITTERS.items():
        for train, test in folds:
            held_out[name][test] = interpolated(fitter(confidence[train], right[train]), confidence[test])
    scores = {name: brier(values, right) for name, values in held_out.items()}
    chosen = min(scores, key=lambda name: scores[name])
    return Fit(chosen, FITTERS[chosen](confidence, right), held_out[chosen], scores)


def interpolated(points: Points, confidence: Floats) -> Floats:
    """As `Calibration.apply`, for many confidences."""
    raws, values = np.array(points).T
    right = np.searchsorted(raws, confidence, side="right")
    high, low = np.minimum(right, len(raws) - 1), np.maximum(right - 1, 0)
    width = raws[high] - raws[low]
    share = np.where(width > 0, (confidence - raws[low]) / np.where(width > 0, width, 1), 0)
    return np.asarray(values[low] + (values[high] - values[low]) * np.clip(share, 0, 1))


def isotonic(confidence: Floats, right: Bools) -> Points:
    """The best non-decreasing fit (Zadrozny and Elkan, 2002)."""
    from sklearn.isotonic import IsotonicRegression

    found = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(confidence, right)
    return _paired(found.X_thresholds_, found.y_thresholds_)


def platt(confidence: Floats, right: Bools) -> Points:
    """A logistic regression on the log-odds (Platt, 1999), noted at 65 quantiles of the confidences."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1e6).fit(_log_odds(confidence), right)
    raws = np.unique(np.quantile(confidence, np.linspace(0, 1, PLATT_POINTS)))
    return _paired(raws, model.predict_proba(_log_odds(raws))[:, 1])


def histogram(confidence: Floats, right: Bools) -> Points:
    """The share of right answers in each of 10 bins of equal mass (Zadrozny and Elkan, 2001)."""
    edges = np.unique(np.quantile(confidence, np.linspace(0, 1, HISTOGRAM_BINS + 1)))
    places = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, max(len(edges) - 2, 0))
    points: list[tuple[float, float]] = []
    for i in np.unique(places):
        share = float(right[places == i].mean())
        points += [(float(edges[i]), share), (float(edges[min(i + 1, len(edges) - 1)]), share)]
    return tuple(points)


def _log_odds(confidence: Floats) -> Floats:
    clipped = np.clip(confidence, _LEAST, 1 - _LEAST)
    return np.asarray(np.log(clipped / (1 - clipped)))[:, None]


def _paired(raws: Floats, values: Floats) -> Points:
    return tuple((float(raw), float(np.clip(value, 0, 1))) for raw, value in zip(raws, values, strict=True))


FITTERS: dict[str, Callable[[Floats, Bools], Points]] = {
    "isotonic": isotonic,
    "platt": platt,
    "histogram": histogram,
}
