"""Output formats of `predict`: a table, one JSON document, or JSON lines."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from adapters.cli.output import Output
from adapters.cli.table import Row, drawn, rows
from adapters.items.item import Item
from adapters.prediction.failures import Failure


@dataclass(frozen=True, slots=True)
class Asked:
    """A file with its answers.

    Attributes:
        position: its place among the files.
        file: its path, as the user wrote it, and the line's number where it has one.
        item: its item; None if it is not a prompt item.
        answers: as `annotations.as_dict` has them, in the order of its prompts.
        failures: its prompts without an answer.
    """

    position: int
    file: str
    item: Item | None
    answers: Sequence[Mapping[str, Any]] = ()
    failures: Sequence[Failure] = ()


class Form(Protocol):
    """Takes each file once, in any order, and then the end, which may come before all files were taken."""

    def take(self, asked: Asked) -> None:
        """Writes it, or keeps it for the end."""
        ...

    def end(self) -> None:
        """Writes what is left to write."""
        ...


class Table:
    """One table in the end, in the order of the files; a file that could not be read has no row."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._rows: dict[int, list[Row]] = {}

    def take(self, asked: Asked) -> None:
        """Keeps its rows."""
        if asked.item is not None:
            found = rows(Path(asked.file).name, asked.item, asked.answers)
            self._rows[asked.position] = [self._escaped(row) for row in found]

    def end(self) -> None:
        """Draws the table."""
        table = [row for position in sorted(self._rows) for row in self._rows[position]]
        if table:
            self._output.write(drawn(table, self._output.holds) + "\n")

    def _escaped(self, row: Row) -> Row:
        # Before it is drawn, so that the columns fit.
        escaped = self._output.escaped
        return replace(
            row,
            item=escaped(row.item),
            prompt=row.prompt and escaped(row.prompt),
            question=row.question and escaped(row.question),
            answer=row.answer and escaped(row.answer),
            error=row.error and escaped(row.error),
        )


class Document:
    """One JSON array: in the order of the files an object each, with its name and its answers.

    It is written up to the first file that is not answered yet; at the end, the others follow in order.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._ahead: dict[int, str] = {}
        self._written = 0

    def take(self, asked: Asked) -> None:
        """Writes it as soon as all files before it are written."""
        table = [asdict(row) for row in rows(asked.file, asked.item, asked.answers, asked.failures)]
        answers = [{key: value for key, value in row.items() if key != "item"} for row in table]
        self._ahead[asked.position] = self._output.json({"item": asked.file, "answers": answers}, indent=2)
        while self._written in self._ahead:
            self._write(self._written)

    def end(self) -> None:
        """Closes the array."""
        for position in sorted(self._ahead):
            self._write(position)
        self._output.write("\n]\n" if self._written else "[]\n")

    def _write(self, position: int) -> None:
        text = self._ahead.pop(position)
        self._output.write((",\n  " if self._written else "[\n  ") + text.replace("\n", "\n  "))
        self._written += 1


class Lines:
    """A JSON object a line, one for each question, as the answers come."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def take(self, asked: Asked) -> None:
        """Writes its lines."""
        table = rows(asked.file, asked.item, asked.answers, asked.failures)
        self._output.write("".join(self._output.json(asdict(row)) + "\n" for row in table))

    def end(self) -> None:
        """All is written."""
