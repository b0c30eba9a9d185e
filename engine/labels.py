"""Label mode: the probability of each label, from the scores of all of them after one prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from engine.errors import GenerationError
from engine.types import Message, Request

if TYPE_CHECKING:
    from engine.scoring import Score

# Stands for a question without content (Zhao et al. 2021).
NO_QUESTION = "N/A"


def candidates(request: Request) -> tuple[str, ...]:
    """What is scored for a request's labels; after a plain text, words are separated from it."""
    labels = request.options.labels
    joined = isinstance(request.prompt, str) and not request.prompt[-1:].isspace()
    return tuple(f" {label}" for label in labels) if joined else labels


def without_question(request: Request) -> Request:
    """The request with `NO_QUESTION` instead of its question; what comes before the question stays."""
    if request.prompt is not None:
        return replace(request, prompt=NO_QUESTION)
    *before, last = request.messages
    return replace(request, messages=(*before, Message(last.role, (NO_QUESTION,))))


def probabilities(
    labels: Sequence[str], scores: Sequence[Score], prior: Sequence[Score] | None = None
) -> dict[str, float]:
    """The probability of each label; they sum to 1.

    Args:
        scores: of each label after the prompt.
        prior: of each label without the question: each probability is divided by this one (contextual
            calibration, Zhao et al. 2021; domain-conditional PMI, Holtzman et al. 2021).

    Raises:
        GenerationError: the model gives no probability to any label.
    """
    found = _exclusive(scores)
    if prior is not None:
        least = math.ulp(0.0)
        found = [one / max(other, least) for one, other in zip(found, _exclusive(prior), strict=True)]
    total = sum(found)
    if not 0 < total < math.inf:
        raise GenerationError("the model gives no probability to any label: take labels that it would answer")
    return {label: one / total for label, one in zip(labels, found, strict=True)}


def _exclusive(scores: Sequence[Score]) -> list[float]:
    """The probability that a text begins with a label and with no longer one that extends it, times a factor.

    "1" begins "10" as well: what is left to it is the probability of "1" without that of "10".
    """
    most = max(score.total for score in scores)
    whole = [math.exp(score.total - most) if most > -math.inf else 0.0 for score in scores]
    left = list(whole)
    # By the tokens of a label: what is left to the labels that extend it.
    extensions = dict.fromkeys((score.token_ids for score in scores), 0.0)
    # The longest first: what extends a label has lost its own extensions by then.
    for i in sorted(range(len(scores)), key=lambda i: -len(scores[i].token_ids)):
        ids = scores[i].token_ids
        left[i] = max(whole[i] - extensions[ids], 0.0)
        for length in range(1, len(ids)):
            if ids[:length] in extensions:
                extensions[ids[:length]] += left[i]
    return left
