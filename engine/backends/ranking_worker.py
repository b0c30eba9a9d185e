"""A worker that answers a request several times, and ranks its answers by their confidence."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from engine.backends.dispatch import Worker
from engine.backends.wrapper import QueueingWrapper
from engine.types import Answer, Chunk, Request

# The first index of the copies of requests; requests themselves never have as many.
_COPIES = 2**40


@dataclass(slots=True)
class _Group:
    """A request that is answered several times."""

    index: int
    missing: int
    answers: list[Answer] = field(default_factory=list)


class RankingWorker(QueueingWrapper):
    """Runs requests by another worker, each as often as its option `n` says; others are handed on."""

    def __init__(self, worker: Worker) -> None:
        """Takes the worker that answers."""
        super().__init__(worker)
        # By the index of a copy.
        self._groups: dict[int, _Group] = {}
        self._next = _COPIES

    def add(self, index: int, request: Request, front: bool) -> list[Chunk]:
        """Adds a request, or queues its copies."""
        n = request.options.n
        if n == 1:
            return list(self._worker.add(index, request, front))
        group = _Group(index, n)
        for i in range(n):
            self._groups[self._next] = group
            self._waiting.append((self._next, _copy(request, i), front))
            self._next += 1
        return list(self._ranked(self._fill()))

    def drop(self, index: int) -> None:
        """Ends a request that has no answer yet, with its copies."""
        copies = [copy for copy, group in self._groups.items() if group.index == index]
        if not copies:
            self._worker.drop(index)
        for copy in copies:
            del self._groups[copy]
        self._withdraw(copies)

    def step(self, block: bool) -> Iterator[Chunk]:
        """Runs for a moment, and gives the chunks that are new."""
        yield from self._ranked(self._fill())
        if self._worker.busy:
            yield from self._ranked(self._worker.step(block))

    def _ranked(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """The chunks that are for the caller: of copies one in the end, with the surest answer."""
        for chunk in chunks:
            if chunk.index < _COPIES:
                yield chunk
            elif chunk.answer is not None:
                group = self._groups.pop(chunk.index)
                group.answers.append(chunk.answer)
                group.missing -= 1
                if not group.missing:
                    answer = ranked(group.answers)
                    yield Chunk(group.index, answer.text, answer)


def ranked(answers: Iterable[Answer]) -> Answer:
    """The answer with the highest confidence, with the others that have not failed; else the first error."""
    listed = sorted(answers, key=_unsureness)
    return replace(listed[0], others=tuple(one for one in listed[1:] if one.error is None))


def _unsureness(answer: Answer) -> tuple[bool, float]:
    return answer.error is not None, 1 - (answer.confidence or 0)


def _copy(request: Request, number: int) -> Request:
    """A request for one of its answers; of a seeded one each has another seed."""
    seed = request.options.seed
    changed = {"n": 1, "seed": None if seed is None else (seed + number) % 2**63}
    return replace(request, options=request.options.model_copy(update=changed))
