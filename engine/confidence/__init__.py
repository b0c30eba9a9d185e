"""Confidence: how sure the model was of an answer, in [0, 1], from evidence recorded while it was generated.

`measure` is the one place where a confidence is computed, for local models and endpoints alike. To add a
method, write a function of one field of `Evidence` and list it in `METHODS`.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from engine.confidence import one_pass, sampled
from engine.confidence.evidence import Evidence, Samples

__all__ = [
    "METHODS",
    "ONE_PASS",
    "TOP_K",
    "Evidence",
    "Samples",
    "all_methods",
    "measure",
    "measured",
    "needs",
]

# The k of `top_k_mass`.
TOP_K = 5

# The field of `Evidence` that a method reads, and the method. All of these come from one pass.
ONE_PASS: Mapping[str, tuple[str, Callable[[Sequence[float]], float]]] = {
    "mean_logprob": ("logprobs", one_pass.mean_logprob),
    "sequence": ("logprobs", one_pass.sequence),
    "min_token": ("logprobs", one_pass.min_token),
    "first_token": ("logprobs", one_pass.first_token),
    "mean_entropy": ("entropies", one_pass.mean_entropy),
    "max_entropy": ("entropies", one_pass.max_entropy),
    "margin": ("margins", one_pass.margin),
    "top_k_mass": ("first_top", one_pass.top_k_mass),
}

METHODS: Mapping[str, tuple[str, Callable[[Any], float | None]]] = {
    **ONE_PASS,
    "self_consistency": ("samples", sampled.self_consistency),
    "lexical_similarity": ("samples", sampled.lexical_similarity),
    "semantic_entropy": ("samples", sampled.semantic_entropy),
    "p_true": ("p_true", float),
    "judge": ("judge", float),
}


def needs(methods: Iterable[str]) -> frozenset[str]:
    """The fields of `Evidence` that methods read."""
    return frozenset(METHODS[method][0] for method in methods)


def measure(method: str, evidence: Evidence) -> float | None:
    """The confidence by a method of `METHODS`, in [0, 1]; None where its evidence is missing or NaN."""
    field, function = METHODS[method]
    found = getattr(evidence, field)
    if method in ONE_PASS and not (_known(found) and _known(evidence.logprobs)):
        return None
    confidence = None if found is None else function(found)
    return None if confidence is None or math.isnan(confidence) else min(max(confidence, 0.0), 1.0)


def all_methods(evidence: Evidence, methods: Iterable[str] = ONE_PASS) -> dict[str, float | None]:
    """The confidence by each method, by default by each that needs one pass; None where it is unknown."""
    return {method: measure(method, evidence) for method in methods}


def measured(method: str, others: Iterable[str], evidence: Evidence) -> dict[str, Any]:
    """The fields of an `Answer` that come from its evidence.

    Args:
        method: of `Answer.confidence`.
        others: of `Answer.confidences`.
    """
    return {
        "confidence": measure(method, evidence),
        "confidences": all_methods(evidence, others),
        "evidence": evidence,
    }


def _known(values: Sequence[float]) -> bool:
    return bool(values) and not any(map(math.isnan, values))
