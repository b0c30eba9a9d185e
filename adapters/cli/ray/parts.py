"""The results of a run that may be killed at any time: parts while it goes on, one file in the end."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from adapters.cli.output import LINE_ENDS
from engine.errors import ConfigurationError

Row = dict[str, Any]


class Parts:
    """Rows of results by their items, in FILE and in the folder FILE.parts until the run ends.

    Attributes:
        rows: those of each item, by its name.
    """

    def __init__(self, out: Path) -> None:
        """Reads what earlier runs have left.

        Raises:
            ConfigurationError: the file holds something else, or cannot be written.
        """
        self._out = out
        self._folder = out.with_name(f"{out.name}.parts")
        self.rows: dict[str, list[Row]] = {}
        try:
            self._folder.mkdir(exist_ok=True)
            parts = sorted(self._folder.glob("*.jsonl"))
            for path in ([out] if out.exists() else []) + parts:
                self._take(_read(path))
        except OSError as error:
            raise ConfigurationError(f"--out {str(out)!r} cannot be written ({error.strerror})") from None
        self._next = int(parts[-1].stem) + 1 if parts else 0

    @property
    def answered(self) -> set[str]:
        """The items that need not be asked again: none of their prompts has failed."""
        return {item for item, rows in self.rows.items() if not any(row["error"] for row in rows)}

    def add(self, rows: Sequence[Row]) -> None:
        """Keeps all rows of some items; whoever reads the parts finds all of these or none."""
        self._take(rows)
        _write(self._folder / f"{self._next:08}.jsonl", rows)
        self._next += 1

    def finish(self, order: Iterable[str]) -> None:
        """Writes the file, items in this order before all others, and removes the parts."""
        items = dict.fromkeys([*(item for item in order if item in self.rows), *self.rows])
        if items or self._out.exists():
            _write(self._out, [row for item in items for row in self.rows[item]])
        shutil.rmtree(self._folder)

    def _take(self, rows: Iterable[Row]) -> None:
        found: dict[str, list[Row]] = {}
        for row in rows:
            found.setdefault(row["item"], []).append(row)
        self.rows |= found


def _read(path: Path) -> list[Row]:
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if line:
            try:
                row = json.loads(line)
                row["item"], row["error"]
            except (ValueError, TypeError, KeyError):
                raise ConfigurationError(
                    f"line {number} of {str(path)!r} is not a result of predict: choose another file by --out"
                ) from None
            rows.append(row)
    return rows


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    new = path.with_name(f"{path.name}.new")
    with new.open("w", encoding="utf-8") as file:
        file.writelines(_line(row) for row in rows)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)


def _line(row: Mapping[str, Any]) -> str:
    text = json.dumps(row, ensure_ascii=False, default=str)
    try:
        text.encode()
    except UnicodeEncodeError:  # Half of a surrogate pair.
        text = json.dumps(row, default=str)
    return text.translate(LINE_ENDS) + "\n"
