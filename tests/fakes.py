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
