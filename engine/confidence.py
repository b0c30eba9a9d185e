"""How sure the model was of an answer: one number in [0, 1] from what generation recorded."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a method may look at, all of it from the forward passes that made the answer.

    Attributes:
        logprobs: natural log-probability of each chosen token under the model itself, the end's included.
        first_top: natural log-probabilities of the likeliest first tokens, most likely first.
    """

    logprobs: Sequence[float]
    first_top: Sequence[float] = ()


def mean_logprob(evidence: Evidence) -> float:
    """Geometric mean of the tokens' probabilities: exp(mean log-probability), free of the answer's length."""
    return math.exp(sum(evidence.logprobs) / len(evidence.logprobs))


def top_k_mass(evidence: Evidence) -> float:
    """Probability of the k likeliest first tokens together, as earlier Dataloop adapters reported it.

    It says how peaked the first token's distribution was, not whether the answer is likely: five equally
    likely tokens give 1.0.
    """
    return sum(map(math.exp, evidence.first_top))


METHODS: dict[str, Callable[[Evidence], float]] = {"mean_logprob": mean_logprob, "top_k_mass": top_k_mass}

# How many of the likeliest first tokens a method looks at; they are recorded for these methods only.
FIRST_TOP = {"top_k_mass": 5}


def measure(method: str, evidence: Evidence) -> float | None:
    """The confidence by a method of `METHODS`, in [0, 1]; None where it is unknown, never NaN."""
    if not evidence.logprobs or any(map(math.isnan, evidence.logprobs)):
        return None
    return min(max(METHODS[method](evidence), 0.0), 1.0)
