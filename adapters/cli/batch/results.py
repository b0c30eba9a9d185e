"""The two files of a batch's results: the answers, to which a run adds, and the errors of the last run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

from adapters.cli.output import Stop
from adapters.openai_api import batch_lines
from adapters.openai_api.batch_lines import BEGINNING
from adapters.openai_api.errors import Refused
from engine.errors import ConfigurationError

# Different reasons of failures that are told.
REASONS = 10
Held = Callable[[], AbstractContextManager[None]]


class Results:
    """The two files of a batch: the answers, to which is added, and beside it the errors of this run.

    Attributes:
        done: the requests that had an answer before this run.
        answered: how many have got one.
        failed: how many have none.
        reasons: why not, with the first of which that is so, and how many; the first `REASONS` of them.
    """

    def __init__(self, source: Path, out: Path | None, held: Held) -> None:
        """Reads what is answered already, and repairs a last line that a killed run has torn.

        Args:
            source: the batch file.
            out: the file of the answers; None: `NAME_output.jsonl` beside it.
            held: what runs in it is not interrupted.

        Raises:
            ConfigurationError: a file that cannot be written, or holds something else.
        """
        self.output = out or source.with_name(f"{source.stem}_output.jsonl")
        if self.output.exists() and not self.output.is_file():
            raise ConfigurationError(f"{str(self.output)!r} is not a file: choose another one by --out")
        self.errors = self.output.with_name(f"{self.output.stem.removesuffix('_output')}_error.jsonl")
        self.answered = self.failed = 0
        self.reasons: dict[str, tuple[str, int]] = {}
        self._held = held
        self._errors: BinaryIO | None = None
        for path in (self.output, self.errors):
            if path.exists() and path.samefile(source):
                raise ConfigurationError(f"{str(path)!r} is the input: choose another file by --out")
        with _writable(self.output):
            self.done = _repaired(self.output)
            _repaired(self.errors)
            self.errors.unlink(missing_ok=True)
            self._output = self.output.open("ab", buffering=0)

    def answer(self, line: bytes) -> None:
        """Writes the line of an answered request."""
        with self._held():
            self.answered += 1
            _write(self._output, line)

    def fail(self, line: bytes, name: str, reason: str) -> None:
        """Writes the line of a request that has no answer.

        Args:
            name: which request it is, for the user.
        """
        with self._held():
            self.failed += 1
            if reason in self.reasons or len(self.reasons) < REASONS:
                first, count = self.reasons.get(reason, (name, 0))
                self.reasons[reason] = first, count + 1
            if self._errors is None:
                with _writable(self.errors):
                    self._errors = self.errors.open("wb", buffering=0)
            _write(self._errors, line)

    @property
    def summary(self) -> str:
        """What came of this run, in a line."""
        before = f" ({len(self.done)} before)" if self.done else ""
        failed = f"; without an answer: {self.failed}, in {self.errors}" if self.failed else ""
        return f"requests answered: {self.answered}{before}, in {self.output}{failed}"

    def close(self) -> None:
        """Closes both files; one with nothing in it goes."""
        for file in (self._output, self._errors):
            if file is not None:
                file.close()
        if not self.output.stat().st_size:
            self.output.unlink()


def _write(file: BinaryIO, line: bytes) -> None:
    try:
        file.write(line)
    except OSError as error:  # Nothing that is answered from here on would be kept.
        raise Stop(1, f"{file.name!r} cannot be written ({error.strerror})", writable=False) from None


def _repaired(path: Path) -> set[str]:
    """The requests that a file of results has answers to; a torn last line is removed from it.

    Raises:
        ConfigurationError: a line is none of a batch's results.
    """
    done: set[str] = set()
    if not path.exists():
        return done
    with path.open("r+b") as file:
        end, torn = 0, False
        for number, line in enumerate(file, 1):
            try:
                name = batch_lines.answered_name(line)
            except Refused as error:
                torn = not line.endswith(b"\n") and (line.startswith(BEGINNING) or BEGINNING.startswith(line))
                if torn:
                    break
                raise ConfigurationError(
                    f"line {number} of {str(path)!r}: {error}: choose another file by --out"
                ) from None
            if name is not None:
                done.add(name)
            end += len(line)
        file.truncate(end)
        if end and not torn and not line.endswith(b"\n"):
            file.seek(end)
            file.write(b"\n")
    return done


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigurationError(f"{str(path)!r} cannot be written ({error.strerror})") from None
