"""Prompt-item files, answered as they come."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from adapters.cli.forms import Asked
from adapters.prediction.failures import Failure
from adapters.prediction.in_batches import predict_batches, takes_one_by_one
from engine.errors import ConfigurationError

logger = logging.getLogger(__name__)

# Files that a `predict` of the user's own is given at once: an interruption costs the answers of so many.
AT_ONCE = 8

Told = Callable[[Asked], object]


def answer_files(files: Iterable[str], load: Callable[[], Any], model_name: str, told: Told) -> None:
    """Answers each file's prompt item and tells what came of it, in the order in which they are ready.

    Args:
        load: makes the model's adapter; not called where no file can be read.
        model_name: what the answers are signed with.

    Raises:
        AdapterError: what `load` raises, before anything is told, or what is wrong for every item.
    """
    coming = (_read(position, file) for position, file in enumerate(files))
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
    on_their_way: dict[int, Asked] = {}

    def readable() -> Iterator[Asked]:
        for asked in coming:
            if asked.item is None:
                told(asked)
            else:
                yield asked

    def items(left: Iterable[Asked]) -> Iterator[Mapping[str, Any]]:
        for number, asked in enumerate(left):
            on_their_way[number] = asked
            yield asked.item or {}

    def done(number: int, answers: list[dict[str, Any]], failures: list[Failure]) -> None:
        told(replace(on_their_way.pop(number), answers=answers, failures=failures))

    left: Iterator[Asked] = readable()
    if takes_one_by_one(adapter):
        try:
            adapter.answer(items(left), done, model_name)
            return
        except ConfigurationError:
            raise
        except Exception:  # Of one item, it may be: what is left is asked one by one.
            logger.debug("answering in flight failed", exc_info=True)
        left, size = chain(list(on_their_way.values()), left), 1
    predict_batches(adapter, items(left), done, model_name, size)


def _read(position: int, file: str) -> Asked:
    """A file's JSON under its name, or why there is none."""
    try:
        item = json.loads(Path(file).read_text(encoding="utf-8-sig"))
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
    except (ValueError, RecursionError) as error:
        reason = f"is no JSON ({error})"
    else:
        if isinstance(item, dict):
            return Asked(position, file, {**item, "filename": file})
        reason = "is no prompt item: a JSON object with 'prompts' is needed"
    return Asked(position, file, None, failures=[Failure(position, file, None, reason)])
