"""Answers on the platform while they grow: a draft for each, which its whole answer stands in for.

A draft is marked as such: it is no answer to anybody who looks, and goes when any run settles its item.
"""

import logging
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic

from adapters.platform import remote
from adapters.platform.remote import Record, RemoteError
from adapters.platform.storing import Seen
from adapters.platform.uploads import as_draft

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Draft:
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


class Drafts:
    """The growing answers of a run; a request of theirs that fails costs no answer."""

    def __init__(
        self, record: Callable[[str, str], Record], seen: Callable[[int], Seen], interval: float
    ) -> None:
        """Sends nothing yet.

        Args:
            record: an annotation, from a prompt's key and a text.
            seen: the item at a position.
            interval: seconds between two updates of an answer.
        """
        self._record = record
        self._seen = seen
        self._interval = interval
        self._open: dict[str, dict[tuple[str, int], _Draft]] = defaultdict(dict)
        self._lock = threading.Lock()
        self._sender = ThreadPoolExecutor(16)

    def grown(self, position: int, key: str, turn: int, text: str) -> None:
        """An answer has grown by a text; it waits for no request.

        Args:
            turn: which of the key's answers it is.
        """
        item_id = self._seen(position).id
        with self._lock:
            draft = self._open[item_id].setdefault((key, turn), _Draft(item_id, key))
            draft.text += text
            now = monotonic()
            idle = draft.sending is None or draft.sending.done()
            if idle and now >= draft.next and draft.text.strip():
                draft.next = now + self._interval
                draft.sending = self._sender.submit(self._send, draft, draft.text)

    def close(self, item_id: str) -> list[str]:
        """Ids of an item's drafts, none of which is being sent any more."""
        with self._lock:
            drafts = list(self._open.pop(item_id, {}).values())
        for draft in drafts:
            if draft.sending is not None:
                draft.sending.result()
        return [draft.id for draft in drafts if draft.id]

    def end(self) -> None:
        """Removes what a run that broke off has left, and waits for it."""
        with self._lock:
            left = list(self._open)
        for item_id in left:
            discard(self.close(item_id))
        self._sender.shutdown()

    def _send(self, draft: _Draft, text: str) -> None:
        try:
            if draft.id is None:
                [stored] = remote.annotate(draft.item_id, [as_draft(self._record(draft.key, text))])
                draft.id = stored["id"]
            else:
                remote.ask("PUT", f"/annotations/{draft.id}", {"coordinates": text})
        except Exception as error:  # What is not shown meanwhile costs nobody an answer.
            logger.warning(
                "item %s: an answer that grows could not be shown: %s", draft.item_id, remote.why(error)
            )


def discard(annotation_ids: list[str]) -> None:
    """Removes drafts that no answer stands in for."""
    for annotation_id in annotation_ids:
        try:
            remote.ask("DELETE", f"/annotations/{annotation_id}")
        except RemoteError as error:
            logger.warning("the draft %s could not be removed; the next run does: %s", annotation_id, error)
