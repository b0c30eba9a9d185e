"""Stand-ins with nothing in them but the contract they keep."""

from collections.abc import Callable, Iterable, Iterator

from engine.contract import Engine, Follow
from engine.errors import AdapterError
from engine.types import Answer, Chunk, Request, Usage


class FakeEngine(Engine):
    """Answers each request with the text that `reply` returns for it, or the error that it raises.

    A conversation is answered to its end before the next one begins. `requests` is what was asked.
    """

    def __init__(self, reply: Callable[[Request], str]) -> None:
        self.reply = reply
        self.requests: list[Request] = []

    def stream(
        self, requests: Iterable[Request | None], follow: Follow | None = None, deltas: bool = True
    ) -> Iterator[Chunk]:
        for index, request in enumerate(request for request in requests if request is not None):
            asked: Request | None = request
            while asked is not None:
                self.requests.append(asked)
                answer = self._answer(asked)
                yield from (Chunk(index, letter) for letter in answer.text if deltas)
                asked = follow(index, answer) if follow else None
                yield Chunk(index, "" if deltas else answer.text, answer)

    def _answer(self, request: Request) -> Answer:
        try:
            text = self.reply(request)
        except AdapterError as error:
            return Answer.failed(error)
        return Answer(text, (), None, None, "stop", Usage(0, 0))


class FakeWorker:
    """A worker that answers one request a step, in the order in which they came.

    Attributes:
        asked: what was added.
        letters: whether a step gives one letter alone.
    """

    def __init__(self, reply: Callable[[Request], str], room: int = 100, letters: bool = False) -> None:
        self.reply, self.room, self.letters = reply, room, letters
        self._given = 0
        self.asked: list[tuple[int, Request]] = []
        self.queue: list[tuple[int, Request]] = []

    @property
    def has_room(self) -> bool:
        return len(self.queue) < self.room

    @property
    def busy(self) -> bool:
        return bool(self.queue)

    @property
    def num_running(self) -> int:
        return len(self.queue)

    def add(self, index: int, request: Request, front: bool) -> list[Chunk]:
        assert self.has_room
        self.asked.append((index, request))
        self.queue.append((index, request))
        return []

    def drop(self, index: int) -> None:
        self.queue = [one for one in self.queue if one[0] != index]

    def step(self, block: bool) -> Iterator[Chunk]:
        index, request = self.queue[0]
        try:
            text = self.reply(request)
        except AdapterError as error:
            text = ""
            answer = Answer.failed(error)
        else:
            answer = Answer(text, (), None, None, "stop", Usage(1, 1))
        if self.letters and self._given < len(text):
            self._given += 1
            yield Chunk(index, text[self._given - 1])
            return
        del self.queue[0]
        rest, self._given = text[self._given :], 0
        yield from (Chunk(index, letter) for letter in rest)
        yield Chunk(index, "", answer)
