"""The worker of `EndpointEngine`: requests → running HTTP calls → chunks."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from queue import Empty, SimpleQueue

from engine.types import Chunk, Request

# Seconds to wait for a chunk before requests that have come meanwhile are looked for.
POLL_INTERVAL = 0.05
# Starts a request, whose chunks are put by the callback; cancelling the future ends it.
Send = Callable[[int, Request, Callable[[Chunk], None]], Future[None]]


class EndpointWorker:
    """The requests of one call of `EndpointEngine.stream`."""

    def __init__(self, send: Send, max_concurrent: int) -> None:
        self._send = send
        self._max_concurrent = max_concurrent
        self._chunks: SimpleQueue[Chunk] = SimpleQueue()
        self._running: dict[int, Future[None]] = {}

    @property
    def has_room(self) -> bool:
        """Whether the server may be sent another request."""
        return self.num_running < self._max_concurrent

    @property
    def busy(self) -> bool:
        """Whether any request has no answer yet."""
        return bool(self._running)

    @property
    def num_running(self) -> int:
        """The number of requests without an answer."""
        return len(self._running)

    def add(self, index: int, request: Request, front: bool) -> tuple[()]:
        """Sends a request; none waits here, so `front` has no effect."""
        self._running[index] = self._send(index, request, self._chunks.put)
        return ()

    def drop(self, index: int) -> None:
        """Closes the connection of a request."""
        self._running.pop(index).cancel()

    def step(self, block: bool) -> Iterator[Chunk]:
        """Waits for a chunk; at most `POLL_INTERVAL` seconds unless it may block."""
        try:
            chunk = self._chunks.get(timeout=None if block else POLL_INTERVAL)
        except Empty:
            return
        if chunk.index not in self._running:  # It was dropped meanwhile.
            return
        if chunk.answer is not None:
            del self._running[chunk.index]
        yield chunk

    def cancel(self) -> None:
        """Cancels what is still running."""
        for future in self._running.values():
            future.cancel()
