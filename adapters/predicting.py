"""Asks any model file's adapter, ours or a user's own, and lets no item cost another its answers."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from adapters.answering import Done
from adapters.failures import Failure
from adapters.hugging import HuggingAdapter
from adapters.prompt_items import item_name
from engine.errors import AdapterError, ConfigurationError

logger = logging.getLogger(__name__)

Answers = list[list[dict[str, Any]]]


def takes_one_by_one(adapter: Any) -> bool:
    """Whether items can enter as they come; a `predict` of the user's own takes batches."""
    return (
        isinstance(adapter, HuggingAdapter)
        and type(adapter).predict is HuggingAdapter.predict
        and hasattr(adapter.engine, "stream")
    )


def predict_batches(
    adapter: Any, items: Iterator[Mapping[str, Any]], done: Done, model_name: str, size: int, **options: Any
) -> None:
    """Answers items in batches, and gives each to `done`; see `HuggingAdapter.answer`.

    Raises:
        ConfigurationError: as `predict_each`.
    """
    position = 0
    while batch := list(islice(items, size)):
        answers, failures = predict_each(adapter, batch, model_name, **options)
        for i, found in enumerate(answers):
            done(position + i, found, [failure for failure in failures if failure.position == i])
        position += len(batch)


def predict_each(
    adapter: Any, batch: Sequence[Mapping[str, Any]], model_name: str, **options: Any
) -> tuple[Answers, list[Failure]]:
    """The answers of each item, as `annotations.as_dict` has them, and what has none.

    A batch on which the adapter raises is asked again item by item.

    Raises:
        ConfigurationError: what is wrong is wrong for every item.
    """
    failures: list[Failure] = []
    try:
        answers = adapter.predict(batch, model_name=model_name, failures=failures, **options)
        if len(answers) != len(batch):
            raise AdapterError(f"predict returned {len(answers)} lists for {len(batch)} items")
        return [[_checked(answer, model_name) for answer in item] for item in answers], failures
    except ConfigurationError:
        raise
    except Exception as error:  # A user's own code: anything can happen.
        logger.debug("predict failed on %d items", len(batch), exc_info=True)
        if len(batch) == 1:
            return [[]], [Failure(0, item_name(batch[0], "item 1"), None, f"{type(error).__name__}: {error}")]
    answers, failures = [], []
    for position, item in enumerate(batch):
        found, failed = predict_each(adapter, [item], model_name, **options)
        answers += found
        failures += [replace(failure, position=position) for failure in failed]
    return answers, failures


def _checked(answer: Mapping[str, Any], model_name: str) -> dict[str, Any]:
    """An answer in the form of `as_dict` whatever else the adapter put into it.

    Raises:
        KeyError, TypeError, ValueError: it has no text, no prompt key, or a confidence that is no number.
    """
    model = answer["metadata"].get("user", {}).get("model", {})
    return {
        "type": "text",
        "label": str(answer.get("label", "q")),
        "coordinates": str(answer["coordinates"]),
        "metadata": {
            "system": {"promptId": answer["metadata"]["system"]["promptId"]},
            "user": {
                "annotation_type": "prediction",
                "model": {
                    "name": str(model.get("name", model_name)),
                    "confidence": _confidence(model.get("confidence")),
                },
            },
        },
    }


def _confidence(given: Any) -> float | None:
    """A number in [0, 1] or None: sums of probabilities may round above 1, a tensor is no JSON."""
    value = given.item() if hasattr(given, "item") else given
    return None if value is None or math.isnan(value) else min(max(float(value), 0.0), 1.0)
