"""Workers around another one, to which they hand on what a subclass does not change."""

from collections import deque
from collections.abc import Collection, Iterable, Iterator

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


class QueueingWrapper(WorkerWrapper):
    """Has requests of its own besides, which the other worker runs when it has room."""

    def __init__(self, worker: Worker) -> None:
        """Takes the other worker."""
        super().__init__(worker)
        self._waiting: deque[tuple[int, Request, bool]] = deque()

    @property
    def has_room(self) -> bool:
        """Whether another request may be added."""
        return not self._waiting and super().has_room

    @property
    def busy(self) -> bool:
        """Whether any request has no answer yet."""
        return bool(self._waiting) or super().busy

    def _fill(self) -> Iterator[Chunk]:
        """Adds those of its own that there is room for; gives the chunks that are new."""
        while self._waiting and super().has_room:
            yield from self._worker.add(*self._waiting.popleft())

    def _withdraw(self, own: Collection[int]) -> None:
        """Ends requests of its own, whether they wait or run."""
        waiting = {index for index, _, _ in self._waiting}
        self._waiting = deque(one for one in self._waiting if one[0] not in own)
        for index in own:
            if index not in waiting:
                self._worker.drop(index)
