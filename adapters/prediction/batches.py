"""Calls a model file's own `predict` in batches; an item that fails does not affect other items."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from adapters.hugging import HuggingAdapter
from adapters.items.annotations import EXTRA
from adapters.items.item import Item, item_name
from adapters.items.stored import get_path, prompt_of, text_at
from adapters.prediction.answering import OnDone
from adapters.prediction.failures import Failure
from adapters.registry import described
from engine.errors import AdapterError, ConfigurationError, GenerationError

logger = logging.getLogger(__name__)

# The answers of each item of a batch, as `annotations.as_dict` has them.
BatchAnswers = list[list[dict[str, Any]]]


def accepts_stream(adapter: Any) -> bool:
    """Whether an adapter accepts a stream of items (`answer`); with its own `predict` it gets batches."""
    return isinstance(adapter, HuggingAdapter) and type(adapter).predict is HuggingAdapter.predict


def batch_size(asked: Any, configuration: Mapping[str, Any], default: int) -> int:
    """The number of items per batch: that of the call, else of the configuration, else the default.

    Raises:
        ConfigurationError: it is no whole number above 0.
    """
    size = asked or configuration.get("batch_size") or default
    if type(size) is not int or size < 1:
        raise ConfigurationError(f"batch_size is {size!r}: set it to a whole number above 0")
    return size


def predict_batches(
    adapter: Any, items: Iterator[Item], on_done: OnDone, model_name: str, size: int, **options: Any
) -> None:
    """Answers items in batches of `size` by a model file's own `predict`, and calls `on_done` for each item.

    Raises:
        ConfigurationError: an error that concerns all items alike.
    """
    while batch := list(islice(items, size)):
        answers, failures = predict_each(adapter, [item.for_batch() for item in batch], model_name, **options)
        for i, (item, found) in enumerate(zip(batch, answers, strict=True)):
            on_done(item, found, [failure for failure in failures if failure.position == i])


def predict_each(
    adapter: Any, batch: Sequence[Mapping[str, Any]], model_name: str, **options: Any
) -> tuple[BatchAnswers, list[Failure]]:
    """The answers of each item, in order, and the failures; `position` of a failure is the item's index.

    If the adapter raises for a batch, its items are asked one by one. A custom model file may also return
    `dl.AnnotationCollection`s, or lists of their annotations.

    Raises:
        ConfigurationError: an error that concerns all items alike.
    """
    failures: list[Failure] = []
    try:
        answers = adapter.predict(batch, model_name=model_name, failures=failures, **options)
        if len(answers) != len(batch):
            raise AdapterError(f"predict returned {len(answers)} lists for {len(batch)} items")
    except ConfigurationError:
        raise
    except Exception as error:  # A user's own code: anything can happen.
        logger.debug("predict failed on %d items", len(batch), exc_info=True)
        if len(batch) == 1:
            return [[]], [_failed(batch, 0, described(error))]
    else:
        return _each_checked(answers, batch, model_name, failures), failures
    answers, failures = [], []
    for position, item in enumerate(batch):
        found, failed = predict_each(adapter, [item], model_name, **options)
        answers += found
        failures += [replace(failure, position=position) for failure in failed]
    return answers, failures


def _each_checked(
    answers: Sequence[Any], batch: Sequence[Mapping[str, Any]], model_name: str, failures: list[Failure]
) -> BatchAnswers:
    """The validated answers of each item. An item with an invalid answer has none, and a failure is added."""
    checked: BatchAnswers = []
    for position, found in enumerate(answers):
        try:
            checked.append([_checked(answer, model_name) for answer in found])
        except Exception as error:  # Of whatever type the user's own code returns.
            logger.debug("an answer cannot be stored", exc_info=True)
            checked.append([])
            reason = str(error) if isinstance(error, AdapterError) else described(error)
            failures.append(_failed(batch, position, reason))
    return checked


def _failed(batch: Sequence[Mapping[str, Any]], position: int, reason: str) -> Failure:
    return Failure(item_name(batch[position], f"item {position + 1}"), None, reason, position)


def _checked(answer: Any, model_name: str) -> dict[str, Any]:
    """Validates an answer and reduces it to the fields of `as_dict`.

    Args:
        answer: a dict in that form, or an annotation of the SDK.

    Raises:
        GenerationError: it has no text, or names no prompt.
        TypeError, ValueError: it is no annotation, or its confidence is no number.
    """
    given = answer if isinstance(answer, Mapping) else answer.to_json()
    text, key, model = (
        text_at(given, "coordinates"),
        prompt_of(given),
        get_path(given, "metadata", "user", "model"),
    )
    extra = {key: found for key in EXTRA if (found := get_path(given, "metadata", "user", key)) is not None}
    labelled = (
        get_path(given, "type") == "class" and "labels" in extra
    )  # By label mode, not by a user's own code.
    if not labelled and (get_path(given, "type") not in ("text", None) or text is None):
        raise GenerationError("predict returned an answer that is not text: return dl.FreeText annotations")
    if key is None:
        raise GenerationError("predict returned an answer without a prompt's key: give it as prompt_id")
    return {
        "type": "class" if labelled else "text",
        "label": text_at(given, "label") or "q",
        "coordinates": [] if labelled else text,
        "metadata": {
            "system": {"promptId": key},
            "user": {
                "annotation_type": "prediction",
                "model": {
                    "name": text_at(model, "name") or model_name,
                    "confidence": _confidence(get_path(model, "confidence")),
                },
                **extra,
            },
        },
    }


def _confidence(given: Any) -> float | None:
    """A confidence as a float in [0, 1], or None. It may be given as a tensor, or rounded to just above 1."""
    value = given.item() if hasattr(given, "item") else given
    return None if value is None or math.isnan(value) else min(max(float(value), 0.0), 1.0)
