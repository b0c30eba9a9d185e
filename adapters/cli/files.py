"""Answers prompt items, and reports each when it is complete."""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain
from typing import Any

from adapters.cli.forms import Asked
from adapters.cli.output import say
from adapters.items.item import Item
from adapters.prediction.batches import accepts_stream, predict_batches
from adapters.prediction.failures import Failure
from engine.errors import ConfigurationError

logger = logging.getLogger(__name__)

# The batch size of a custom `predict`: an interruption loses the answers of one batch.
AT_ONCE = 8

Told = Callable[[Asked], object]


def answer_files(coming: Iterator[Asked], load: Callable[[], Any], model_name: str, told: Told) -> None:
    """Answers prompt items, and reports each as soon as it is complete.

    Args:
        coming: the items, or why one could not be read.
        load: makes the model's adapter; not called where no item can be read.
        model_name: the name in the metadata of the answers.

    Raises:
        AdapterError: what `load` raises, before any report, or an error that concerns every item.
    """
    begun: list[Asked] = []
    for asked in coming:
        begun.append(asked)
        if asked.item is not None:
            _answer(load(), chain(begun, coming), model_name, told)
            return
    for asked in begun:
        told(asked)


def _answer(adapter: Any, coming: Iterator[Asked], model_name: str, told: Told) -> None:
    size = AT_ONCE
    open_files: dict[Item, Asked] = {}

    def items(files: Iterable[Asked]) -> Iterator[Item]:
        for asked in files:
            if asked.item is None:
                told(asked)
            else:
                open_files[asked.item] = asked
                yield asked.item

    def done(item: Item, answers: list[dict[str, Any]], failures: list[Failure]) -> None:
        told(replace(open_files.pop(item), answers=answers, failures=failures))

    if accepts_stream(adapter):
        try:
            adapter.answer(items(coming), done, model_name)
            return
        except ConfigurationError:
            raise
        except Exception:  # One item may be the cause: the others are answered one by one.
            logger.debug("answering in one run failed", exc_info=True)
        coming, size = chain(list(open_files.values()), coming), 1
    predict_batches(adapter, items(coming), done, model_name, size)


def say_reused(model: Any) -> None:
    """Says how many answers were not made anew, if there are any."""
    if reused := getattr(getattr(model, "_engine", None), "reused", None):
        say(str(reused))
