"""One line on the terminal that shows how it goes; none where no one looks, and gone in the end."""

import time
from types import TracebackType
from typing import Self

from tqdm import tqdm

# Seconds before a line is shown: most calls are over by then.
DELAY = 1


def line(doing: str, total: int, unit: str) -> tqdm:
    """A line for what may take long; its `update` counts."""
    return tqdm(desc=doing, total=total, unit=unit, leave=False, disable=None, delay=DELAY)


class Progress:
    """How generation goes while it is entered: answers, tokens a second, live rows."""

    def __init__(self, answers: int) -> None:
        """Starts the clock.

        Args:
            answers: how many are asked for, 0 where nobody knows; where turns follow there may be more.
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

    def answered(self, tokens: int, live: int) -> None:
        """An answer of so many tokens has come; so many rows are live."""
        self._tokens += tokens
        if not self._bar.disable:
            speed = self._tokens / (time.monotonic() - self._started)
            self._bar.set_postfix_str(f"{speed:.0f} tokens/s, {live} rows", refresh=False)
            self._bar.total = max(self._bar.total, self._bar.n + 1 + live)
            self._bar.update()
