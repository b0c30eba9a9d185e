"""Answer → annotation: the dict that `predict` returns, and the platform's own entity."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from engine.types import Answer

if TYPE_CHECKING:
    import dtlpy as dl


def as_dict(key: str, answer: Answer, model_name: str) -> dict[str, Any]:
    """An answer to prompt `key` in the form that `HuggingAdapter.predict` returns; confidence may be None."""
    return {
        "type": "text",
        "label": "q",
        "coordinates": answer.text,
        "metadata": {
            "system": {"promptId": key},
            "user": {
                "annotation_type": "prediction",
                "model": {"name": model_name, "confidence": answer.confidence},
            },
        },
    }


def collection(answers: Iterable[Mapping[str, Any]], model: dl.Model) -> dl.AnnotationCollection:
    """Answers of one item as annotations of `model`, which is named in both places the platform looks.

    Raises:
        KeyError, TypeError: an answer that is not in the form of `as_dict`.
    """
    import dtlpy as dl

    annotations = dl.AnnotationCollection()
    for answer in answers:
        confidence = _confidence(answer)
        annotations.add(
            dl.FreeText(text=str(answer["coordinates"]), label=answer.get("label", "q")),
            prompt_id=answer["metadata"]["system"]["promptId"],
            model_info={"name": model.name, "model_id": model.id, "confidence": confidence or 0.0},
        )
        metadata = annotations[-1].metadata
        # `add` insists on a number; a confidence that is not known is left out, never made up.
        named = {"name": model.name, "model_id": model.id}
        named |= {} if confidence is None else {"confidence": confidence}
        metadata["user"] = {**metadata.get("user", {}), "annotation_type": "prediction", "model": named}
        metadata["system"] = {**metadata.get("system", {}), "model": dict(named)}
    return annotations


def _confidence(answer: Mapping[str, Any]) -> float | None:
    """A number in [0, 1] whatever a user's adapter computed: sums of probabilities may round above 1."""
    given = answer["metadata"].get("user", {}).get("model", {}).get("confidence")
    if hasattr(given, "item"):  # A tensor or a numpy number.
        given = given.item()
    return None if given is None or math.isnan(given) else min(max(float(given), 0.0), 1.0)
