"""Progress of a run over items: on the terminal and on the platform's page of the execution."""

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

# Seconds between two updates on the platform.
INTERVAL = 2.0


class RunProgress:
    """Counts the processed items of a run and shows them; a context manager. Updates are sent in a thread."""

    def __init__(self, total: int, progress: Any | None, title: str = "predicting") -> None:
        """Sends nothing yet.

        Args:
            total: the number of items.
            progress: a `dl.Progress`; None to show the progress on the terminal only.
            title: what the progress bar is called.
        """
        self._progress = progress
        self._title = title
        self._total = total
        self._lock = threading.Lock()
        self._last: Future[None] | None = None
        self._next = time.monotonic()

    def __enter__(self) -> Self:
        self._sender = ThreadPoolExecutor(1)
        self._bar = tqdm(total=self._total, desc=self._title, unit="item", file=sys.stdout, disable=None)
        self._ended = 0
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._update()
        self._sender.shutdown()
        self._bar.close()

    def ended(self, items: int = 1) -> None:
        """Counts items that are done, answered or failed."""
        with self._lock:
            self._ended += items
            self._bar.update(items)
            if time.monotonic() >= self._next and (self._last is None or self._last.done()):
                self._next = time.monotonic() + INTERVAL
                self._update()

    def _update(self) -> None:
        if self._progress is not None:
            self._last = self._sender.submit(self._send, self._progress, self._ended)

    def _send(self, progress: Any, ended: int) -> None:
        total = max(self._total, ended)
        try:
            progress.update(
                progress=round(100 * ended / total) if total else 100,
                message=f"{ended} of {total} items",
            )
        except Exception as error:  # A failed update must not end the run.
            logger.warning("the progress could not be reported: %s", remote.describe_error(error))
