"""The inputs of `predict`: prompt items and questions from files, folders, patterns and standard input."""

from __future__ import annotations

import glob
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from adapters.cli.forms import Asked
from adapters.items.item import Item
from adapters.prediction.failures import Failure

STDIN = "-"
# Files with something to ask in each line: how many is known at their end only.
LINES = {".jsonl", ".txt"}
NO_ITEM = "is no prompt item: a JSON object with 'prompts' is needed"
# A name, and its content or why there is none.
Source = tuple[str, Any, str | None]


def expand(names: Sequence[str]) -> tuple[list[str], int | None]:
    """The files that names expand to, and the number of their items; None if that is not known yet."""
    paths = [path for name in names for path in _expanded(name)]
    counted = not any(path == STDIN or Path(path).suffix in LINES for path in paths)
    return paths, len(paths) if counted else None


def inputs(paths: Iterable[str], model_name: str) -> Iterator[Asked]:
    """Each item and question, read when its turn comes, or why there is none.

    Args:
        model_name: whose earlier answers belong to the conversations.
    """
    sources = (source for path in paths for source in _read(path))
    for position, (name, content, reason) in enumerate(sources):
        if reason is not None:
            yield Asked(position, name, None, failures=[Failure(name, None, reason)])
        else:
            yield Asked(position, name, Item.of({**content, "filename": name}, model_name))


def question_item(text: str) -> dict[str, Any]:
    """A prompt item with one question."""
    return {"prompts": {"1": {"1": {"mimetype": "application/text", "value": text}}}}


def _expanded(name: str) -> list[str]:
    path = Path(name)
    if path.is_dir():
        return sorted(map(str, path.rglob("*.json"))) or [name]
    if name == STDIN or path.exists() or not glob.has_magic(name):
        return [name]
    return sorted(glob.glob(name, recursive=True)) or [name]


def _read(path: str) -> Iterator[Source]:
    name = path
    try:
        if path == STDIN:
            name = "stdin"
            yield from _lines_or_item(name, sys.stdin)
        elif Path(path).is_dir():
            yield path, None, "has no prompt items: a folder needs .json files"
        elif Path(path).suffix in LINES:
            with open(path, encoding="utf-8-sig") as lines:
                yield from _lines(path, enumerate(lines, 1), Path(path).suffix == ".jsonl")
        else:
            yield _item(path, Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        yield name, None, f"cannot be read ({error.strerror})"
    except ValueError as error:  # Its bytes are no UTF-8.
        yield name, None, f"is no text ({error})"


def _lines_or_item(name: str, stream: TextIO) -> Iterator[Source]:
    """What standard input holds: one JSON object, JSON in each line, or a question in each line."""
    first = stream.readline()
    if first.lstrip().startswith("{") and not _is_json(first):
        yield _item(name, first + stream.read())
        return
    yield from _lines(name, enumerate(_after(first, stream), 1), _is_json(first) and first.strip()[0] in '{"')


def _after(first: str, stream: TextIO) -> Iterator[str]:
    yield first
    yield from stream


def _lines(name: str, lines: Iterable[tuple[int, str]], as_json: bool) -> Iterator[Source]:
    for number, line in lines:
        if text := line.strip():
            place = f"{name}:{number}"
            yield _item(place, text) if as_json else (place, question_item(text), None)


def _item(name: str, text: str) -> Source:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        return name, None, f"is no JSON ({error})"
    if isinstance(content, str):
        return name, question_item(content), None
    return (name, content, None) if isinstance(content, dict) else (name, None, NO_ITEM)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
