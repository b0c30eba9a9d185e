"""Answer → annotation: the dict that `predict` returns, and the platform's own record."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from engine.types import Answer

if TYPE_CHECKING:
    import dtlpy as dl


# The most tokens of an answer whose probabilities are stored with it.
MAX_TOKENS = 256
# The most characters of a model's reasoning that are stored with its answer.
MAX_REASONING = 16_384
# What may stand beside the model in an answer's `metadata.user`.
EXTRA = ("confidences", "labels", "refusal", "tokens", "reasoning", "provenance")
# Probabilities in metadata are rounded to so many digits.
DIGITS = 4


def as_dict(
    key: str,
    answer: Answer,
    model_name: str,
    tokens: bool = False,
    reasoning: bool = False,
    provenance: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """An answer to prompt `key` in the form that `HuggingAdapter.predict` returns; confidence may be None.

    Args:
        tokens: whether the probabilities of the answer's tokens go into its metadata, where they are known.
        reasoning: whether the model's reasoning does.
        provenance: how the answer came about, by `Source.provenance`.
    """
    extra: dict[str, Any] = {}
    if answer.confidences:
        extra["confidences"] = dict(answer.confidences)
    if answer.labels:
        extra["labels"] = {label: round(found, DIGITS) for label, found in answer.labels.items()}
    if tokens and answer.tokens is not None:
        extra["tokens"] = [
            [token.text, round(math.exp(token.logprob), DIGITS)] for token in answer.tokens[:MAX_TOKENS]
        ]
    if reasoning and answer.reasoning is not None:
        extra["reasoning"] = answer.reasoning[:MAX_REASONING]
    if provenance is not None:
        extra["provenance"] = dict(provenance)
    return {
        **_body(answer),
        "metadata": {
            "system": {"promptId": key},
            "user": {
                "annotation_type": "prediction",
                "model": {"name": model_name, "confidence": answer.confidence},
                **extra,
            },
        },
    }


def _body(answer: Answer) -> dict[str, Any]:
    """A text, or a classification by one of the labels that were given."""
    if answer.labels:
        return {"type": "class", "label": answer.text, "coordinates": []}
    return {"type": "text", "label": "q", "coordinates": answer.text}


def as_record(answer: Mapping[str, Any], model: dl.Model) -> dict[str, Any]:
    """An answer, as `as_dict` has it, as the platform stores it: as from `collection`, without entities."""
    signature = _signature(answer, model)
    key = answer["metadata"]["system"]["promptId"]
    return {
        "type": answer["type"],
        "label": answer["label"],
        "coordinates": answer["coordinates"],
        "attributes": None,
        "source": "sdk",
        "metadata": {
            "system": {"promptId": key, "model": dict(signature), "automated": True, "attributes": {}},
            "user": {**answer["metadata"]["user"], "annotation_type": "prediction", "model": signature},
        },
    }


def collection(answers: Iterable[Mapping[str, Any]], model: dl.Model) -> dl.AnnotationCollection:
    """Answers of one item, as `as_dict` has them, as annotations of `model`.

    The model is named in both places the platform looks; an unknown confidence is left out.
    """
    import dtlpy as dl

    annotations = dl.AnnotationCollection()
    for answer in answers:
        signature = _signature(answer, model)
        label = answer["label"]
        annotations.add(
            dl.Classification(label=label)
            if answer["type"] == "class"
            else dl.FreeText(text=answer["coordinates"], label=label),
            prompt_id=answer["metadata"]["system"]["promptId"],
            # Here the SDK insists on a number.
            model_info={"confidence": 0.0, **signature},
        )
        metadata = annotations[-1].metadata
        metadata["user"] = {
            **metadata["user"],
            **answer["metadata"]["user"],
            "annotation_type": "prediction",
            "model": signature,
        }
        metadata["system"] = {**metadata["system"], "model": dict(signature)}
    return annotations


def _signature(answer: Mapping[str, Any], model: dl.Model) -> dict[str, Any]:
    """What an annotation says of its model; no confidence where none is known."""
    confidence = answer["metadata"]["user"]["model"]["confidence"]
    known = {} if confidence is None else {"confidence": confidence}
    return {"name": model.name, "model_id": model.id, **known}
