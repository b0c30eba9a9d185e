"""Confidence: how sure the model was of an answer, in [0, 1], computed from its log-probabilities.

`measure` is the one place where a confidence is computed, for local models and endpoints alike.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a confidence is computed from: recorded by the forward passes that generated the answer.

    Attributes:
        logprobs: natural log-probability of each generated token by the model's own logits, EOS included.
        first_top: natural log-probabilities of the most likely first tokens, the most likely one first.
    """

    logprobs: Sequence[float]
    first_top: Sequence[float] = ()


def mean_logprob(evidence: Evidence) -> float:
    """The geometric mean of the tokens' probabilities, exp(mean log-probability); independent of length."""
    return math.exp(sum(evidence.logprobs) / len(evidence.logprobs))


def top_k_mass(evidence: Evidence) -> float:
    """The total probability of the k most likely first tokens, as earlier Dataloop adapters reported it.

    It measures how peaked the first token's distribution is, not how likely the answer is: k equally likely
    tokens with no probability elsewhere give 1.0.
    """
    return sum(map(math.exp, evidence.first_top))


METHODS: dict[str, Callable[[Evidence], float]] = {"mean_logprob": mean_logprob, "top_k_mass": top_k_mass}

# The k of each method that needs the most likely first tokens; they are recorded for these methods only.
FIRST_TOP = {"top_k_mass": 5}


def measure(method: str, evidence: Evidence) -> float | None:
    """The confidence by a method of `METHODS`, in [0, 1]; None where it is unknown, never NaN."""
    if not evidence.logprobs or any(map(math.isnan, evidence.logprobs)):
        return None
    return min(max(METHODS[method](evidence), 0.0), 1.0)
