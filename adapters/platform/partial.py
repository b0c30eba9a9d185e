"""Partial annotations: answers on the platform while they grow; the whole answer replaces each.

One is marked as partial: it is no answer to anybody who looks, and goes when any run settles its item.
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
from adapters.platform.remote import RemoteError
from adapters.platform.uploads import as_partial

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Partial:
    """An answer that grows.

    Attributes:
        next: when it may be sent again.
        sending: the request that is on its way.
    """

    item_id: str
    key: str
    text: str = ""
    next: float = 0.0
    id: str | None = None
    sending: Future[None] | None = None


class PartialAnnotations:
    """Those of one run; a request of theirs that fails costs no answer."""

    def __init__(self, record: Callable[[str, str], Record], interval: float) -> None:
        """Sends nothing yet.

        Args:
            record: an annotation, from a prompt's key and a text.
            interval: seconds between two updates of an answer.
        """
        self._record = record
        self._interval = interval
        self._open: dict[str, dict[tuple[str, int], _Partial]] = defaultdict(dict)
        self._lock = threading.Lock()
        self._sender = ThreadPoolExecutor(16)

    def grow(self, item: Item, key: str, number: int, text: str) -> None:
        """Appends to an answer; waits for no request.

        Args:
            number: which of the key's answers it is.
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
        """Ids of an item's partial annotations, none of which is being sent any more."""
        with self._lock:
            partials = list(self._open.pop(item_id, {}).values())
        for partial in partials:
            if partial.sending is not None:
                partial.sending.result()
        return [partial.id for partial in partials if partial.id]

    def end(self) -> None:
        """Removes what a run that broke off has left, and waits for it."""
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
        except Exception as error:  # What is not shown meanwhile costs nobody an answer.
            logger.warning(
                "item %s: an answer that grows could not be shown: %s", partial.item_id, remote.why(error)
            )


def discard(annotation_ids: list[str]) -> None:
    """Removes partial annotations that no answer replaces."""
    for annotation_id in annotation_ids:
        try:
            remote.ask("DELETE", f"/annotations/{annotation_id}")
        except RemoteError as error:
            logger.warning(
                "partial annotation %s could not be removed; the next run does: %s", annotation_id, error
            )
