"""Discrimination: how well a confidence tells right answers from wrong ones, with bootstrap intervals.

All take confidences and `right` (both of shape (n,)) and depend only on the order of the confidences. Answers
with equal confidences are accepted together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

RESAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval, by the percentiles of a bootstrap; None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None


def auroc(confidence: Floats, right: Bools) -> float:
    """The probability that a right answer has a higher confidence than a wrong one; ties count half.

    NaN where all answers are right, or all wrong.
    """
    return float(_auroc(*_groups(confidence, right, np.ones((1, len(right)))))[0])


def aurc(confidence: Floats, right: Bools) -> float:
    """The area under the risk-coverage curve (Geifman and El-Yaniv, 2017): lower is better.

    The mean, over all answers, of the error rate among those that are at least as sure.
    """
    return float(_aurc(*_groups(confidence, right, np.ones((1, len(right)))))[0])


def prr(confidence: Floats, right: Bools) -> float:
    """The prediction rejection ratio (Malinin and Gales, 2021): 1 for a perfect order, 0 for a random one.

    (random - AURC) / (random - oracle), where random is the error rate and the oracle accepts all right
    answers first. NaN where all answers are right, or all wrong.
    """
    return float(_prr(*_groups(confidence, right, np.ones((1, len(right)))))[0])


def risk_coverage(confidence: Floats, right: Bools) -> tuple[Floats, Floats]:
    """The share of answers accepted and the error rate among these, for each threshold, the highest first."""
    accepted, wrong = _groups(confidence, right, np.ones((1, len(right))))
    return accepted[0] / len(right), wrong[0] / accepted[0]


def estimates(confidence: Floats, right: Bools, seed: int = 0) -> dict[str, Estimate]:
    """AUROC, AURC and PRR with their intervals."""
    n = len(right)
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    once = _groups(confidence, right, np.ones((1, n)))
    resampled = _groups(confidence, right, draws.astype(np.float64))
    figures = {"auroc": _auroc, "aurc": _aurc, "prr": _prr}
    return {name: _estimate(float(of(*once)[0]), of(*resampled)) for name, of in figures.items()}


def _estimate(value: float, resampled: Floats) -> Estimate:
    known = resampled[~np.isnan(resampled)]
    if np.isnan(value) or not len(known):
        return Estimate(None, None, None)
    low, high = np.percentile(known, [2.5, 97.5])
    return Estimate(value, float(low), float(high))


def _groups(confidence: Floats, right: Bools, weights: Floats) -> tuple[Floats, Floats]:
    """Answers accepted, and the wrong ones among these, at each threshold from the highest on.

    Args:
        weights: how often each answer counts, (resamples, n).

    Returns:
        Both (resamples, thresholds).
    """
    order = np.argsort(-confidence, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(confidence[order]) != 0, True))
    ordered = weights[:, order]
    return ordered.cumsum(axis=1)[:, ends], (ordered * ~right[order]).cumsum(axis=1)[:, ends]


def _auroc(accepted: Floats, wrong: Floats) -> Floats:
    kept = accepted - wrong
    new_wrong = np.diff(wrong, axis=1, prepend=0)
    above = kept - np.diff(kept, axis=1, prepend=0) / 2
    with np.errstate(invalid="ignore"):
        return np.asarray((new_wrong * above).sum(axis=1) / (kept[:, -1] * wrong[:, -1]))


def _aurc(accepted: Floats, wrong: Floats) -> Floats:
    new = np.diff(accepted, axis=1, prepend=0)
    return np.asarray((new * wrong / np.maximum(accepted, 1)).sum(axis=1) / accepted[:, -1])


def _prr(accepted: Floats, wrong: Floats) -> Floats:
    n = accepted[:, -1]
    random, kept = wrong[:, -1] / n, (n - wrong[:, -1]).astype(int)
    harmonic = np.append(0.0, (1 / np.arange(1, int(n.max()) + 1)).cumsum())
    oracle = random - kept / n * (harmonic[n.astype(int)] - harmonic[kept])
    with np.errstate(invalid="ignore"):
        return np.asarray((random - _aurc(accepted, wrong)) / (random - oracle))
