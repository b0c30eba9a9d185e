"""Thresholds with a guarantee: which answers to accept so that few of them are wrong, with 95 % certainty.

Fixed-sequence testing (learn then test; Angelopoulos, Bates, Candès, Jordan and Lei, 2021). Thresholds are
tested from the strictest on. The test of each is exact and binomial: "more than `max_error` of what it
accepts is wrong" is rejected where so few wrong answers would come with a probability of at most 5 %. The
first that is not rejected ends the sequence; the last before it is taken. So 5 % need not be divided among
the tests. How many answers each threshold accepts is fixed before any label is looked at.

It holds for new answers that are drawn as the labelled ones were, and where a less strict threshold has no
lower error rate than a stricter one.
"""

from __future__ import annotations

import math

import numpy as np

from adapters.evaluation.discrimination import Bools, Floats, risk_coverage
from engine.confidence.calibration import Threshold

CERTAINTY = 0.95
# Thresholds that are tested, each accepting 4 % of the answers more than the one before.
STEPS = 25


def threshold(confidence: Floats, right: Bools, max_error: float, certainty: float = CERTAINTY) -> Threshold:
    """The least strict threshold at which at most `max_error` of the accepted answers are wrong."""
    from scipy.stats import binom

    n = len(right)
    shares, risks = risk_coverage(confidence, right)
    accepted = np.rint(shares * n).astype(int)
    wrong = np.rint(risks * accepted).astype(int)
    levels = -np.unique(-confidence)
    found = Threshold(max_error, certainty, None, 0.0)
    for i in _tested(accepted, least(max_error, certainty)):
        if binom.cdf(wrong[i], accepted[i], max_error) > 1 - certainty:
            break
        found = Threshold(max_error, certainty, float(levels[i]), float(shares[i]))
    return found


def least(max_error: float, certainty: float = CERTAINTY) -> int:
    """The number of accepted answers below which nothing is certain, even if all are right."""
    return math.ceil(math.log(1 - certainty) / math.log1p(-max_error))


def _tested(accepted: np.ndarray, least_accepted: int) -> list[int]:
    """The thresholds to test: the first that accepts as many, for each step from the least number on."""
    n = int(accepted[-1])
    steps = range(least_accepted, n + 1, max(1, n // STEPS))
    return sorted({int(np.searchsorted(accepted, step)) for step in [*steps, n] if step >= least_accepted})


def labels_needed(
    confidence: Floats, right: Bools, max_error: float, certainty: float = CERTAINTY
) -> int | None:
    """How many more labelled answers like these would support a threshold.

    None where no threshold had so few wrong answers among those it accepts: more labels alone do not help.
    """
    from scipy.stats import binom

    n = len(right)
    shares, risks = risk_coverage(confidence, right)
    enough = shares * n >= min(n, least(max_error, certainty)) / 2
    promising = np.flatnonzero(enough & (risks < max_error))
    if not len(promising):
        return None
    # The threshold that accepts most of those with the lowest error rate.
    best = promising[np.lexsort((-shares[promising], risks[promising]))[0]]
    for factor in np.geomspace(1, 1000, 2000):
        accepted = math.ceil(factor * shares[best] * n)
        if binom.cdf(math.ceil(risks[best] * accepted), accepted, max_error) <= 1 - certainty:
            return max(1, math.ceil(float((factor - 1) * n)))
    return None


def sentence(found: Threshold, confidence: Floats, right: Bools) -> str:
    """The promise in words, or what to do where there is none."""
    rate = f"{100 * found.max_error:.3g} %"
    certainty = f"{100 * found.certainty:.3g} % certainty"
    if found.threshold is not None:
        share = f"{100 * found.accepted:.0f} %"
        return f"accept {share} of the answers; at most {rate} of those are wrong, with {certainty}"
    more = labels_needed(confidence, right, found.max_error, found.certainty)
    if more is None:
        return f"no threshold holds {rate} wrong: even among the surest answers more are wrong"
    return f"no threshold holds {rate} wrong with {certainty}: label {more} more"
