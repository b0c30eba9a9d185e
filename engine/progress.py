"""Progress bars on the terminal: hidden if standard error is no terminal, and removed when done."""

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self, TypeVar

from tqdm import tqdm

T = TypeVar("T")
# Seconds before a bar appears: most calls finish sooner.
DELAY = 1


def progress_bar(description: str, total: int, unit: str) -> tqdm:
    """A bar for a loop that may take long; call its `update` to count."""
    return tqdm(desc=description, total=total, unit=unit, leave=False, disable=None, delay=DELAY)


class Expected(Iterator[T]):
    """An iterator that knows how many answers its requests will have; 0 if unknown."""

    def __init__(self, requests: Iterator[T], answers: int) -> None:
        self._requests = requests
        self._answers = answers

    def __next__(self) -> T:
        return next(self._requests)

    def __len__(self) -> int:
        return self._answers


class Progress:
    """The bar of a generation, as a context manager: answers, tokens per second, running sequences."""

    def __init__(self, answers: int) -> None:
        """Shows the bar and starts the clock.

        Args:
            answers: how many are expected, 0 if unknown; the total grows when follow-up turns come.
        """
        self._bar = tqdm(total=answers, desc="generating", unit="answer", leave=False, disable=None)
        self._started = time.monotonic()
        self._tokens = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()

    def answered(self, tokens: int, num_running: int) -> None:
        """Counts one answer.

        Args:
            tokens: the length of the answer.
            num_running: how many sequences are still running.
        """
        self._tokens += tokens
        if not self._bar.disable:
            speed = self._tokens / (time.monotonic() - self._started)
            self._bar.set_postfix_str(f"{speed:.0f} tokens/s, {num_running} sequences", refresh=False)
            self._bar.total = max(self._bar.total, self._bar.n + 1 + num_running)
            self._bar.update()
