"""The loop of `Engine.stream`, which all backends share: requests in, chunks out."""

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import replace
from typing import Protocol

from engine.contract import Follow
from engine.errors import Cancelled, PromptError
from engine.progress import Progress
from engine.types import Answer, Chunk, Request

_END, _FULL = object(), object()


class Worker(Protocol):
    """Runs the requests of one call of `Engine.stream`."""

    @property
    def has_room(self) -> bool:
        """Whether another request may be added."""
        ...

    @property
    def busy(self) -> bool:
        """Whether any request has no answer yet."""
        ...

    @property
    def num_running(self) -> int:
        """The number of answers that are being generated."""
        ...

    def add(self, index: int, request: Request, front: bool) -> Iterable[Chunk]:
        """Adds a request.

        Args:
            front: whether it goes before the requests that wait.

        Returns:
            The answer, if the request cannot be run; else nothing.
        """
        ...

    def drop(self, index: int) -> None:
        """Cancels a request that has no answer yet; `step` gives no more chunks of it."""
        ...

    def step(self, block: bool) -> Iterable[Chunk]:
        """Runs one step, and gives the chunks that are new.

        Args:
            block: whether it may wait until there are any; if not, other requests may come meanwhile.
        """
        ...


def dispatch(requests: Iterable[Request | None], follow: Follow | None, worker: Worker) -> Iterator[Chunk]:
    """Answers requests with a worker.

    Args:
        requests: taken while the worker has room. None means that the next one is not there yet.
        follow: callback for each answer, called before its last chunk is given. The request that it returns
            goes before those that wait.

    Raises:
        PromptError: one of them is no request.
    """
    coming = iter(requests)
    watched: dict[int, Callable[[], bool]] = {}
    began: dict[int, float] = {}
    index = 0
    with Progress(len(requests) if isinstance(requests, Sized) else 0) as progress:

        def deliver(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
            for chunk in chunks:
                following = None
                if chunk.answer is not None:
                    watched.pop(chunk.index, None)
                    seconds = time.perf_counter() - began.pop(chunk.index)
                    answer = replace(chunk.answer, seconds=seconds)
                    progress.answered(answer.usage.completion_tokens, worker.num_running)
                    following = follow(chunk.index, answer) if follow else None
                    chunk = replace(chunk, answer=answer)
                yield chunk
                if following is not None:
                    yield from add(chunk.index, following, front=True)

        def add(index: int, request: Request, front: bool) -> Iterator[Chunk]:
            began[index] = time.perf_counter()
            if request.cancelled is not None:
                watched[index] = request.cancelled
            yield from deliver(worker.add(index, request, front))

        def drop_cancelled() -> Iterator[Chunk]:
            for index in [index for index, cancelled in watched.items() if cancelled()]:
                worker.drop(index)
                answer = Answer.failed(Cancelled("cancelled: nobody waits for this answer any more"))
                yield from deliver([Chunk(index, "", answer)])

        while True:
            request: object = _FULL
            while worker.has_room and isinstance(request := next(coming, _END), Request):
                yield from add(index, request, front=False)
                index += 1
            if not (isinstance(request, Request) or request in (None, _END, _FULL)):
                kind = type(request).__name__
                raise PromptError(f'request {index} is a {kind}: give a Request, as Request((), prompt="Hi")')
            yield from drop_cancelled()
            if worker.busy:
                yield from deliver(worker.step(request is not None and not watched))
            elif request is _END:
                return
