"""Progress of a run over items: on the terminal, and on the execution's page of the platform."""

import logging
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from adapters.platform import remote

logger = logging.getLogger(__name__)

# Seconds between two reports to the platform.
INTERVAL = 2.0


class Report:
    """Counts items that have ended, while it is entered; no item waits for a report."""

    def __init__(self, total: int, progress: Any | None) -> None:
        """Takes what the platform's runner hands to a function.

        Args:
            total: how many items there are.
            progress: a `dl.Progress`, or None where nobody asked.
        """
        self._progress = progress
        self._total = total
        self._lock = threading.Lock()
        self._last: Future[None] | None = None
        self._next = time.monotonic()

    def __enter__(self) -> Self:
        self._sender = ThreadPoolExecutor(1)
        self._bar = tqdm(total=self._total, desc="predicting", unit="item", file=sys.stdout, disable=None)
        self._ended = 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._report()
        self._sender.shutdown()
        self._bar.close()

    def ended(self) -> None:
        """One more item has ended."""
        with self._lock:
            self._ended += 1
            self._bar.update()
            if time.monotonic() >= self._next and (self._last is None or self._last.done()):
                self._next = time.monotonic() + INTERVAL
                self._report()

    def _report(self) -> None:
        if self._progress is not None:
            self._last = self._sender.submit(self._send, self._progress, self._ended)

    def _send(self, progress: Any, ended: int) -> None:
        total = max(self._total, ended)
        try:
            progress.update(
                progress=round(100 * ended / total) if total else 100,
                message=f"{ended} of {total} items",
            )
        except Exception as error:  # A report that fails costs no answer.
            logger.warning("the progress could not be reported: %s", remote.why(error))
