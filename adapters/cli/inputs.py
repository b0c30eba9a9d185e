"""The inputs of `predict`: prompt items and questions from files, folders, patterns and standard input."""

from __future__ import annotations

import csv
import glob
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from adapters import registry
from adapters.cli.forms import Asked
from adapters.items.item import Item
from adapters.items.plain import PromptTemplate
from adapters.items.prompt_items import question_item
from adapters.prediction.failures import Failure
from engine.errors import PromptError

STDIN = "-"
# Files with something to ask in each line: how many is known at their end only.
LINES = {".csv", ".jsonl", ".txt"}
# Characters of a cell at most.
MAX_CELL = 2**23
QUESTION = "ask a question by standard input: echo 'QUESTION' | python -m adapters predict -"
NO_ITEM = "is not a prompt item: a JSON object with 'prompts' is needed"
# A name, and its content (a text or a JSON object) or why there is none.
Source = tuple[str, Any, str | None]


def expand(names: Sequence[str]) -> tuple[list[str], int | None]:
    """The files that names expand to, and the number of their items; None if that is not known yet."""
    paths = [path for name in names for path in _expanded(name)]
    counted = not any(path == STDIN or Path(path).suffix in LINES for path in paths)
    return paths, len(paths) if counted else None


def inputs(paths: Iterable[str], model_name: str, template: PromptTemplate | None = None) -> Iterator[Asked]:
    """Each item and question, read when its turn comes, or why there is none.

    Args:
        model_name: whose earlier answers belong to the conversations.
        template: makes prompt items of texts, of JSON objects and of rows of tables.
    """
    sources = (source for path in paths for source in _read(path, template is not None))
    for position, (name, content, reason) in enumerate(sources):
        try:
            if reason is not None:
                raise PromptError(reason)
            if template is not None:
                content = template.item(content)
            item = question_item(content) if isinstance(content, str) else content
        except PromptError as error:
            yield Asked(position, name, None, failures=[Failure(name, None, str(error))])
        else:
            yield Asked(position, name, Item.of({**item, "filename": name}, model_name))


def prompt_template(stem: str, configuration: Mapping[str, Any]) -> PromptTemplate | None:
    """What makes prompt items of plain ones, if the model's options say how."""
    from adapters.hugging import HuggingAdapter

    kind = registry.find(stem)
    if not issubclass(kind, HuggingAdapter):
        return PromptTemplate.of(configuration.get("prompt_template"), configuration.get("labels"))
    chosen = kind(configuration).configuration
    return PromptTemplate.of(chosen.adapter.prompt_template, chosen.generation.labels)


def _expanded(name: str) -> list[str]:
    if os.path.isdir(name):  # Path.is_dir raises where a name is too long.
        return sorted(map(str, Path(name).rglob("*.json"))) or [name]
    if name == STDIN or os.path.exists(name) or not glob.has_magic(name):
        return [name]
    return sorted(glob.glob(name, recursive=True)) or [name]


def _read(path: str, tables: bool) -> Iterator[Source]:
    name = path
    try:
        if Path(path).suffix == ".csv" and not tables:
            yield path, None, "is a table: set prompt_template to a text with its columns in braces"
            return
        if path == STDIN:
            name = "stdin"
            yield from _some(name, _lines_or_item(name, sys.stdin))
        elif os.path.isdir(path):
            yield path, None, "has no prompt items: a folder needs .json files"
        elif Path(path).suffix in LINES:
            with open(path, encoding="utf-8-sig", newline="" if path.endswith(".csv") else None) as lines:
                if Path(path).suffix == ".csv":
                    yield from _rows(path, lines)
                else:
                    as_json = Path(path).suffix == ".jsonl"
                    yield from _some(path, _lines(path, enumerate(lines, 1), as_json))
        else:
            yield _file(path, Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        question = f": {QUESTION}" if " " in path and not os.path.exists(path) else ""
        yield name, None, f"cannot be read ({error.strerror}){question}"
    except ValueError as error:  # Its bytes are no UTF-8.
        yield name, None, f"is not text ({error})"


def _some(name: str, sources: Iterator[Source]) -> Iterator[Source]:
    """The sources; without any, why there is none."""
    first = next(sources, None)
    yield (name, None, "has nothing to ask: every line is empty") if first is None else first
    yield from sources


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
            yield _item(place, text) if as_json else (place, text, None)


def _rows(name: str, lines: TextIO) -> Iterator[Source]:
    """The rows of a CSV file by its first line's names; the first row has the number 2."""
    csv.field_size_limit(MAX_CELL)
    rows = csv.DictReader(lines)
    try:
        names = rows.fieldnames or ()
        if twice := [column for column in names if names.count(column) > 1]:
            yield name, None, f"has two columns {twice[0]!r}: give each its own name"
            return
        for number, row in enumerate(rows, 2):
            extra = row.pop(None, None)
            reason = f"has {len(extra)} more cells than the first line has names" if extra else None
            yield f"{name}:{number}", row, reason
    except csv.Error as error:
        yield name, None, f"cannot be read on ({error})"


def _file(path: str, text: str) -> Source:
    """A prompt item; a file of another form has to be told so."""
    name, content, reason = _item(path, text)
    if reason and Path(path).suffix not in {".json", ""}:
        reason += f", and its ending is none of {', '.join(sorted({'.json', *LINES}))}"
    return name, content, reason


def _item(name: str, text: str) -> Source:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        return name, None, f"is not JSON ({error})"
    return (name, content, None) if isinstance(content, dict | str) else (name, None, NO_ITEM)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
