"""Standard output in any encoding, and interruptions that do not truncate it."""

import contextlib
import io
import json
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Self

from engine.errors import ConfigurationError

# Line ends to Python's `splitlines` and to JavaScript, though not to JSON: they would cut a line of JSONL.
LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"}

# Characters that are written at once: a pipe takes their bytes whole or not at all, while Python loses the
# rest of a text when a signal comes after a part of it was taken.
PIECE = 1000

# The exit code when the reader has gone, as in a shell: 128 plus the number of SIGPIPE.
UNREAD = 141
# That of SIGINT.
INTERRUPTED = 130


class Stop(KeyboardInterrupt):
    """Ends the run. It is no `Exception`, so that it is not mistaken for the failure of an item.

    Attributes:
        code: the exit code: 128 plus the signal's number, as in a shell; 1 if the output cannot be written.
        reason: what to tell the user; empty where there is nothing to say.
        writable: whether there still is an output.
    """

    def __init__(self, code: int, reason: str = "", writable: bool = True) -> None:
        super().__init__(reason)
        self.code, self.reason, self.writable = code, reason, writable


class Output:
    """A text stream of any encoding: a terminal's, a file's, a notebook's, a `StringIO`."""

    def __init__(self, stream: Any) -> None:
        """Takes `sys.stdout` as it is now.

        Raises:
            ConfigurationError: there is none, or it is closed.
        """
        if stream is None or getattr(stream, "closed", False):
            raise ConfigurationError("there is no standard output to write to: redirect it to a file")
        self._stream = stream
        self._encoding = getattr(stream, "encoding", None) or "utf-8"

    def holds(self, text: str) -> bool:
        """Whether its encoding has every character of a text."""
        return self.escaped(text) == text

    def escaped(self, text: str) -> str:
        """The text for people; characters outside the encoding are escaped."""
        return text.encode(self._encoding, "backslashreplace").decode(self._encoding)

    def shown(self, text: str) -> str:
        """Untrusted text for a terminal: control characters are escaped."""
        return self.escaped(
            "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
        )

    def json(self, value: Any, indent: int | None = None) -> str:
        """The value as JSON: readable where the encoding allows it, else escaped."""
        text = json.dumps(value, ensure_ascii=False, indent=indent, default=str)
        if not self.holds(text):
            text = json.dumps(value, indent=indent, default=str)
        return text.translate(LINE_ENDS)

    @property
    def is_terminal(self) -> bool:
        """Whether a person reads it, rather than a file or another program."""
        return bool(getattr(self._stream, "isatty", lambda: False)())

    def table(self, headers: Sequence[str], table: Iterable[Sequence[str]]) -> None:
        """Writes a table: drawn on a terminal, else a line for each row, its cells separated by tabs.

        Raises:
            Stop: as `write` does.
        """
        cleaned = [[" ".join(self.escaped(cell).split()) for cell in row] for row in table]
        if not self.is_terminal:
            self.write("".join("\t".join(row) + "\n" for row in cleaned))
            return
        from rich import box
        from rich.table import Table
        from rich.text import Text

        drawn = Table(*headers, box=box.SIMPLE_HEAD, header_style="bold")
        for row in cleaned:
            drawn.add_row(*(Text(self.shown(cell)) for cell in row))  # Never markup.
        # A buffer of its own, so that the text is written whole; rich reads NO_COLOR and the width itself.
        self._print(drawn)

    def styled(self, text: str, style: str) -> None:
        """Writes a text, in a style of rich's on a terminal.

        Raises:
            Stop: as `write` does.
        """
        if not self.is_terminal:
            self.write(text)
            return
        from rich.text import Text

        self._print(Text(text, style, end=""))

    def _print(self, drawn: Any) -> None:
        from rich.console import Console

        buffer = _Buffer(self._encoding)
        Console(file=buffer, force_terminal=True).print(drawn, end="")
        self.write(buffer.getvalue())

    def write(self, text: str) -> None:
        """Writes a text at once.

        Raises:
            Stop: the reader has gone (with the code of SIGPIPE), or the output cannot be written.
        """
        try:
            for start in range(0, len(text) or 1, PIECE):
                self._stream.write(text[start : start + PIECE])
                getattr(self._stream, "flush", lambda: None)()
        except BrokenPipeError:
            raise self.lost() from None
        except (OSError, ValueError) as error:
            raise self.lost(1, f"the output cannot be written ({error})") from None

    def lost(self, code: int = UNREAD, reason: str = "") -> Stop:
        """The exception for an output that failed; nothing is written to it afterwards."""
        # Otherwise Python would write the buffer again at exit, with a traceback.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        return Stop(code, reason, writable=False)


class _Buffer(io.StringIO):
    """An in-memory text stream with an encoding."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding


class Signals:
    """A context manager: SIGINT and SIGTERM raise `Stop` in it, at once or at the end of a `held` block."""

    def __init__(self) -> None:
        self._held = False
        self._came: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                # A shell makes background jobs ignore Ctrl-C.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before or signal.SIG_DFL)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """A block that is not interrupted.

        Raises:
            Stop: at its end, if a signal has come; also an earlier one that other code has caught.
        """
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._came is not None:
            raise Stop(self._came)

    def hold(self) -> None:
        """Interrupts nothing from here on."""
        self._held = True

    def _take(self, number: int, _: object) -> None:
        self._came = 128 + number
        if not self._held:
            raise Stop(self._came)


@contextlib.contextmanager
def printing() -> Iterator[Output]:
    """Standard output for a command's results alone: what else is printed goes to standard error.

    Raises:
        ConfigurationError: there is no standard output, or it is closed.
    """
    output = Output(sys.stdout)
    with aside():
        yield output


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """Redirects what a model file or a library prints to standard error, or discards it if there is none."""
    with contextlib.ExitStack() as stack:
        error = sys.stderr
        if error is None or getattr(error, "closed", False):
            error = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stderr(error))
        stack.enter_context(contextlib.redirect_stdout(error))
        yield


class _Unobserved:
    """A stream that says it is not a terminal."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def isatty(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def unobserved() -> AbstractContextManager[Any]:
    """Hides progress bars while other text is written to the terminal."""
    return contextlib.redirect_stderr(_Unobserved(sys.stderr))


def say(text: str) -> None:
    """A line on standard error, where there is one: `print` would take standard output instead."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(text + "\n")
