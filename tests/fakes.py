"""Stand-ins with nothing in them but the contract they keep."""

from collections.abc import Callable, Sequence

from engine.errors import AdapterError
from engine.types import Answer, Request, Usage


class FakeEngine:
    """Answers each request with the text that `reply` returns for it, or the error that it raises.

    `batches` is what was asked: a list of requests for each call.
    """

    def __init__(self, reply: Callable[[Request], str]) -> None:
        self.reply = reply
        self.batches: list[list[Request]] = []

    def generate(self, requests: Sequence[Request]) -> list[Answer]:
        self.batches.append(list(requests))
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Answer:
        try:
            text = self.reply(request)
        except AdapterError as error:
            return Answer.failed(error)
        return Answer(text, (), None, None, "stop", Usage(0, 0))
