"""Once is enough: equal requests of a run are answered once, and an answer in the cache is not made anew."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from engine.answer_cache import AnswerCache, Reused
from engine.backends.dispatch import Worker
from engine.backends.wrapper import WorkerWrapper
from engine.types import Answer, Chunk, Request

# Requests that wait for the answer of an equal one, and answers that are not given yet.
MAX_WAITING = 256
# Characters of requests and tokens of answers that are kept for equal requests: some 100 MB at most.
KEPT = 2**20

# What an answer that is kept takes beside its text and tokens, in the same measure.
ENTRY = 100

# What is asked, and a digest of the options, which may hold what cannot be hashed.
Key = tuple[tuple[Any, ...], bytes]


def shared_key(request: Request) -> Key | None:
    """What equal requests have in common; None for one whose answer is drawn anew each time."""
    options = request.options
    if options.sampled and options.seed is None:
        return None
    digest = hashlib.sha256(options.as_json().encode()).digest()
    return request.asked, digest


@dataclass(eq=False, slots=True)
class _Group:
    """Equal requests that wait for one answer.

    Attributes:
        key: None for a request that is not shared.
        stored: its key in the cache; None if it is not to be stored.
        members: their indices.
        text: what was given of the answer so far.
    """

    key: Key | None
    stored: bytes | None
    members: list[int]
    text: str = ""


class SharingWorker(WorkerWrapper):
    """Lets another worker run each request that no equal one has been asked before.

    Greedy requests are equal by their messages and options, sampled ones if they have a seed, too. An equal
    request gets the answer as it grows. A failed answer goes to those that wait for it, and is not kept.
    """

    def __init__(self, worker: Worker, cache: AnswerCache | None) -> None:
        """Takes the worker that answers."""
        super().__init__(worker)
        self.reused = Reused()
        self._cache = cache
        # By the index that the other worker knows them by: never used twice, unlike those of the caller.
        self._groups: dict[int, _Group] = {}
        self._inner: dict[int, int] = {}
        self._running: dict[Key, int] = {}
        self._kept = _Kept()
        self._ready: list[Chunk] = []
        self._next = 0

    @property
    def has_room(self) -> bool:
        """Whether another request may be added."""
        waiting = len(self._ready) + len(self._inner) - len(self._groups)
        return waiting < MAX_WAITING and super().has_room

    @property
    def busy(self) -> bool:
        """Whether any request has no answer yet."""
        return bool(self._ready) or super().busy

    def add(self, index: int, request: Request, front: bool) -> tuple[()]:
        """Adds a request to its equals, or hands it on; what is known of its answer comes with `step`."""
        key = shared_key(request)
        if key is None:
            self._hand_on(_Group(None, None, [index]), request, front)
        elif (inner := self._running.get(key)) is not None:
            group = self._groups[inner]
            group.members.append(index)
            self._inner[index] = inner
            self.reused.shared += 1
            if group.text:
                self._ready.append(Chunk(index, group.text))
        elif (answer := self._kept.get(key)) is not None:
            self.reused.shared += 1
            self._ready.append(Chunk(index, answer.text, answer))
        else:
            stored = None if self._cache is None else self._cache.key(request)
            found = None if self._cache is None or stored is None else self._cache.get(stored)
            if found is None:
                self._hand_on(_Group(key, stored, [index]), request, front)
            else:
                self.reused.cached += 1
                self._kept.add(key, found)
                self._ready.append(Chunk(index, found.text, found))
        return ()

    def drop(self, index: int) -> None:
        """Ends a request that has no answer yet; its equals go on."""
        self._ready = [chunk for chunk in self._ready if chunk.index != index]
        inner = self._inner.pop(index, None)
        if inner is None:  # Its answer was ready.
            return
        group = self._groups[inner]
        group.members.remove(index)
        if not group.members:
            self._forget(inner, group)
            self._worker.drop(inner)

    def step(self, block: bool) -> Iterator[Chunk]:
        """Gives what is ready, then runs the others for a moment."""
        ready, self._ready = self._ready, []
        yield from ready
        if self._worker.busy:
            for chunk in self._worker.step(block and not ready):
                yield from self._for_all(chunk)

    def _hand_on(self, group: _Group, request: Request, front: bool) -> None:
        inner, self._next = self._next, self._next + 1
        [index] = group.members
        self._groups[inner] = group
        self._inner[index] = inner
        if group.key is not None:
            self._running[group.key] = inner
        for chunk in self._worker.add(inner, request, front):
            self._ready += self._for_all(chunk)

    def _for_all(self, chunk: Chunk) -> Iterable[Chunk]:
        """A chunk for each request of its group."""
        group = self._groups[chunk.index]
        if chunk.answer is not None:
            self._end(chunk.index, group, chunk.answer)
        elif group.key is not None:
            group.text += chunk.text
        return [Chunk(member, chunk.text, chunk.answer) for member in group.members]

    def _end(self, inner: int, group: _Group, answer: Answer) -> None:
        for member in group.members:
            del self._inner[member]
        self._forget(inner, group)
        if answer.error is None and group.key is not None:
            self._kept.add(group.key, answer)
            if self._cache is not None and group.stored is not None:
                self._cache.put(group.stored, answer)

    def _forget(self, inner: int, group: _Group) -> None:
        del self._groups[inner]
        if group.key is not None:
            del self._running[group.key]


class _Kept:
    """The answers that were asked for last, as many as have `KEPT` characters and tokens."""

    def __init__(self) -> None:
        self._answers: OrderedDict[Key, Answer] = OrderedDict()
        self._size = 0

    def get(self, key: Key) -> Answer | None:
        answer = self._answers.get(key)
        if answer is not None:
            self._answers.move_to_end(key)
        return answer

    def add(self, key: Key, answer: Answer) -> None:
        self._answers[key] = answer
        self._size += _size(key, answer)
        while self._size > KEPT:
            self._size -= _size(*self._answers.popitem(last=False))


def _size(key: Key, answer: Answer) -> int:
    asked, _ = key
    return ENTRY + len(str(asked)) + len(answer.token_ids) + len(answer.text)
