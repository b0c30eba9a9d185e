"""Partial annotations: they are updated while an answer is generated, which then replaces them.

Their upload tag marks them as partial: no program counts them as answers, and each run removes them when it
reconciles the item.
"""

import logging
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic

from adapters.items.item import Item
from adapters.items.stored import Record
from adapters.platform import remote
from adapters.platform.errors import Refused, RemoteError
from adapters.platform.uploads import as_partial

logger = logging.getLogger(__name__)

# Requests at once.
WORKERS = 16


@dataclass(slots=True)
class _Partial:
    """An answer that is being generated.

    Attributes:
        text: the answer so far.
        next: the time by `monotonic`, in seconds, from which it may be sent again.
        id: its annotation's id; None until it is stored.
        sending: the last request.
    """

    item_id: str
    key: str
    text: str = ""
    next: float = 0.0
    id: str | None = None
    sending: Future[None] | None = None


class PartialAnnotations:
    """The partial annotations of one run. A failed request is logged and does not affect the answer."""

    def __init__(self, record: Callable[[str, str], Record], interval: float) -> None:
        """Sends nothing yet.

        Args:
            record: makes an annotation of a prompt's key and a text.
            interval: seconds between two updates of an answer, at least.
        """
        self._record = record
        self._interval = interval
        self._open: dict[str, dict[tuple[str, int], _Partial]] = defaultdict(dict)
        self._lock = threading.Lock()
        self._sender = ThreadPoolExecutor(WORKERS)

    def grow(self, item: Item, key: str, number: int, text: str) -> None:
        """Appends text to an answer; does not wait for a request.

        Args:
            number: the answer's number among those to the prompt `key`, from 0.
            text: the text to append.
        """
        assert item.id is not None
        with self._lock:
            partial = self._open[item.id].setdefault((key, number), _Partial(item.id, key))
            partial.text += text
            now = monotonic()
            idle = partial.sending is None or partial.sending.done()
            if idle and now >= partial.next and partial.text.strip():
                partial.next = now + self._interval
                partial.sending = self._sender.submit(self._send, partial, partial.text)

    def close(self, item_id: str) -> list[str]:
        """Waits for an item's last updates; returns the ids of its partial annotations."""
        with self._lock:
            partials = list(self._open.pop(item_id, {}).values())
        for partial in partials:
            if partial.sending is not None:
                partial.sending.result()
        return [partial.id for partial in partials if partial.id]

    def end(self) -> None:
        """Ends the run: removes the partial annotations of the items that were not closed."""
        with self._lock:
            left = list(self._open)
        for item_id in left:
            discard(self.close(item_id))
        self._sender.shutdown()

    def _send(self, partial: _Partial, text: str) -> None:
        try:
            if partial.id is None:
                [stored] = remote.annotate(partial.item_id, [as_partial(self._record(partial.key, text))])
                partial.id = stored["id"]
            else:
                remote.ask("PUT", f"/annotations/{partial.id}", {"coordinates": text})
        except Exception as error:  # The answer itself is stored by another request.
            logger.warning(
                "item %s: a partial annotation could not be updated: %s",
                partial.item_id,
                remote.describe_error(error),
            )


def discard(annotation_ids: list[str]) -> None:
    """Removes partial annotations; a failure is logged, except that one does not exist any more."""
    for annotation_id in annotation_ids:
        try:
            remote.ask("DELETE", f"/annotations/{annotation_id}")
        except RemoteError as error:
            if isinstance(error, Refused) and error.status == 404:
                continue
            logger.warning(
                "partial annotation %s could not be removed; the next run does: %s", annotation_id, error
            )
