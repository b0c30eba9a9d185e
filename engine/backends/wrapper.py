"""A worker around another one, to which it hands on what a subclass does not change."""

from collections.abc import Iterable

from engine.backends.dispatch import Worker
from engine.types import Chunk, Request


class WorkerWrapper:
    """Has the methods of a `Worker`, by those of another one."""

    def __init__(self, worker: Worker) -> None:
        """Takes the other worker."""
        self._worker = worker

    @property
    def has_room(self) -> bool:
        """Whether another request may be added."""
        return self._worker.has_room

    @property
    def busy(self) -> bool:
        """Whether any request has no answer yet."""
        return self._worker.busy

    @property
    def num_running(self) -> int:
        """The number of answers that are being generated."""
        return self._worker.num_running

    def add(self, index: int, request: Request, front: bool) -> Iterable[Chunk]:
        """Adds a request."""
        return self._worker.add(index, request, front)

    def drop(self, index: int) -> None:
        """Ends a request that has no answer yet."""
        self._worker.drop(index)

    def step(self, block: bool) -> Iterable[Chunk]:
        """Runs for a moment, and gives the chunks that are new."""
        return self._worker.step(block)
