"""True answers: from a person's annotations, or from a CSV or JSON-lines file by item and prompt."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from adapters.items.stored import answer_of, get_path, prompt_of
from engine.errors import ConfigurationError

COLUMNS = ("item", "prompt", "answer")


class Truth:
    """The right answers to prompts; one prompt may have several.

    A file names an item by its path, its name, or its name without the ending.
    """

    def __init__(self) -> None:
        self._answers: dict[tuple[str, str], list[str]] = defaultdict(list)

    def add(self, item: str, prompt: str, answer: str) -> None:
        """Adds a right answer."""
        self._answers[item, prompt].append(answer)

    def of(self, names: Iterable[str], prompt: str) -> tuple[str, ...]:
        """The right answers to a prompt of an item with several names; empty if none is known."""
        for name in names:
            if found := self._answers.get((name, prompt)):
                return tuple(found)
        return ()

    @classmethod
    def read(cls, path: str | Path) -> Truth:
        """Reads a CSV file with the columns item, prompt and answer, or JSON lines with these keys.

        Several rows of one prompt are several right answers. In JSON, "answer" may be a list of them.

        Raises:
            ConfigurationError: it cannot be read, or a row lacks something; the row is named.
        """
        truth, path = cls(), Path(path)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path} cannot be read: {error}") from error
        for row, values in _rows(path, text):
            missing = [column for column in COLUMNS if values.get(column) in (None, "", [])]
            if missing:
                raise ConfigurationError(
                    f"{path}, row {row}: it has no {' and no '.join(missing)}; each row needs "
                    + ", ".join(COLUMNS)
                )
            answers = values["answer"] if isinstance(values["answer"], list) else [values["answer"]]
            for answer in answers:
                truth.add(str(values["item"]), str(values["prompt"]), str(answer))
        return truth


def _rows(path: Path, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    if path.suffix.lower() == ".csv":
        yield from enumerate(csv.DictReader(text.splitlines()), 2)
        return
    for row, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except ValueError:
            values = None
        if not isinstance(values, dict):
            raise ConfigurationError(f"{path}, row {row}: it is not a JSON object; name a CSV file .csv")
        yield row, values


def names_of(filename: str) -> tuple[str, ...]:
    """What a file of true answers may call an item."""
    path = PurePosixPath(filename)
    return (filename, path.name, path.stem)


def by_people(annotations: Sequence[Any]) -> dict[str, tuple[str, ...]]:
    """The answers of people, by prompt key, without those of any model."""
    found: dict[str, list[str]] = defaultdict(list)
    for annotation in annotations:
        key, answer = prompt_of(annotation), answer_of(annotation)
        if key is not None and answer is not None and answer.strip() and not _by_a_model(annotation):
            found[key].append(answer)
    return {key: tuple(answers) for key, answers in found.items()}


def _by_a_model(annotation: Any) -> bool:
    return any(get_path(annotation, "metadata", by, "model") for by in ("user", "system"))
