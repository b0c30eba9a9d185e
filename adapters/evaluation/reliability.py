"""Calibration error: whether a confidence of 0.9 means nine in ten."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from adapters.evaluation.discrimination import Bools, Floats

BINS = 15


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers of similar confidence: their number, their mean confidence, and the share that is right."""

    n: int
    confidence: float
    right: float


def bins(confidence: Floats, right: Bools, count: int = BINS) -> list[Bin]:
    """The answers in up to `count` bins of equal mass, by ascending confidence."""
    parts = np.array_split(np.argsort(confidence, kind="stable"), count)
    return [
        Bin(len(part), float(confidence[part].mean()), float(right[part].mean()))
        for part in parts
        if len(part)
    ]


def ece(confidence: Floats, right: Bools, count: int = BINS) -> float:
    """The expected calibration error over bins of equal mass: the mean gap of confidence and right share."""
    parts = bins(confidence, right, count)
    return sum(part.n * abs(part.confidence - part.right) for part in parts) / len(right)


def brier(confidence: Floats, right: Bools) -> float:
    """The Brier score (1950): the mean squared difference of the confidence and 1 (right) or 0 (wrong)."""
    return float(np.mean((confidence - right) ** 2))
