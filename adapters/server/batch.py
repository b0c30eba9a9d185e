"""The shared batch: one thread runs the engine over the requests of all clients."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import TypeVar

from adapters.server.errors import full, stopping
from adapters.server.metrics import Metrics
from engine.contract import Engine
from engine.errors import AdapterError, GenerationError
from engine.types import Answer, Chunk, Request

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


@dataclass(eq=False, slots=True)
class _Entry:
    """A request in the batch.

    Attributes:
        index: its index within its call.
        came: when it came, in seconds.
        first: when the first text of its answer came; None before that.
    """

    call: Answering
    index: int
    request: Request
    came: float
    first: float | None = None


class Answering:
    """The answers to the requests of one call, as they come. An async iterator of their chunks.

    A chunk's index is that of its request within the call.
    """

    def __init__(self, count: int) -> None:
        self.cancelled = False
        self.arrived: asyncio.Queue[Chunk] = asyncio.Queue()
        self._left = count

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self

    async def __anext__(self) -> Chunk:
        if not self._left:
            raise StopAsyncIteration
        chunk = await self.arrived.get()
        self._left -= chunk.answer is not None
        return chunk

    def cancel(self) -> None:
        """Takes requests that have no answer yet out of the batch, at its next step."""
        self.cancelled = True


class Batch:
    """Answers the requests of all clients in one batch.

    All methods are called in the event loop that runs when it starts; the engine runs in a thread.
    """

    def __init__(self, engine: Engine, max_requests: int, metrics: Metrics) -> None:
        """Takes a loaded model's engine.

        Args:
            max_requests: requests that may run and wait at a time.
        """
        self._engine = engine
        self._most = max_requests
        self._metrics = metrics
        self._open = 0
        self._stopped = False
        self._inbox: SimpleQueue[_Entry | None] = SimpleQueue()
        self._outbox: deque[tuple[_Entry, Chunk]] = deque()
        self._waking = False
        self._thread = threading.Thread(target=self._run, name="batch", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """Cancels what is running, and waits for the end of the step."""
        self._stopped = True
        self._inbox.put(None)
        self._thread.join()

    @property
    def stopped(self) -> bool:
        """Whether nothing is answered any more."""
        return self._stopped

    def submit(self, requests: Sequence[Request]) -> Answering:
        """Queues the requests of a call.

        Raises:
            Refused: too many are running and waiting already, or the server is stopping.
        """
        self._admit(len(requests))
        call = Answering(len(requests))
        self._metrics.waiting.inc(len(requests))
        for index, request in enumerate(requests):
            cancellable = replace(request, cancelled=lambda: call.cancelled or self._stopped)
            self._inbox.put(_Entry(call, index, cancellable, time.perf_counter()))
        return call

    async def run(self, work: Callable[[], Result]) -> Result:
        """The result of a call that generates no text. It runs in a thread of its own.

        Raises:
            Refused: as `submit`.
        """
        self._admit(1)
        try:
            return await asyncio.to_thread(work)
        finally:
            self._open -= 1

    def _admit(self, count: int) -> None:
        if self._stopped:
            raise stopping()
        if self._open + count > self._most:
            raise full(self._most)
        self._open += count

    def _run(self) -> None:
        """Runs the engine; what it raises is the answer to all requests that it had."""
        while (entry := self._inbox.get()) is not None:
            taken = {0: entry}
            error: AdapterError
            try:
                for chunk in self._engine.stream(self._requests(taken)):
                    self._deliver(taken[chunk.index], chunk)
                    if chunk.answer is not None:
                        del taken[chunk.index]
                return
            except AdapterError as raised:
                error = raised
            except Exception as raised:  # Third-party code: any exception is possible.
                logger.warning("the batch failed: %s", type(raised).__name__)
                logger.debug("the batch failed", exc_info=True)
                error = GenerationError(f"the model failed ({type(raised).__name__}): ask again")
            for one in taken.values():
                self._deliver(one, Chunk(0, "", Answer.failed(error)))

    def _requests(self, taken: dict[int, _Entry]) -> Iterator[Request | None]:
        """The request in `taken`, and those that come; each is added to `taken`. None: none is there yet."""
        yield taken[0].request
        index = 1
        while True:
            try:
                entry = self._inbox.get(block=not taken)
            except Empty:
                yield None
                continue
            if entry is None:
                return
            taken[index] = entry
            yield entry.request
            index += 1

    def _deliver(self, entry: _Entry, chunk: Chunk) -> None:
        """Hands a chunk over to the event loop, which is woken once for all that it has not taken yet."""
        self._outbox.append((entry, chunk))
        if not self._waking:
            self._waking = True
            self._loop.call_soon_threadsafe(self._hand_out)

    def _hand_out(self) -> None:
        self._waking = False
        while self._outbox:
            entry, chunk = self._outbox.popleft()
            now = time.perf_counter()
            if entry.first is None:
                entry.first = now
                self._metrics.first(now - entry.came)
            if chunk.answer is not None:
                self._open -= 1
                self._metrics.ended(chunk.answer, now - entry.first)
            entry.call.arrived.put_nowait(replace(chunk, index=entry.index))
