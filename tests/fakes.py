"""Stand-ins with nothing in them but the contract they keep."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from engine.conversation import Follow
from engine.errors import AdapterError
from engine.types import Answer, Chunk, Request, Usage


class FakeEngine:
    """Answers each request with the text that `reply` returns for it, or the error that it raises.

    `batches` is what was asked: the requests of each call, then what followed their answers, round by round.
    """

    def __init__(self, reply: Callable[[Request], str]) -> None:
        self.reply = reply
        self.batches: list[list[Request]] = []

    def generate(self, requests: Sequence[Request], follow: Follow | None = None) -> list[Answer]:
        self.batches.append(list(requests))
        answers = [self._answer(request) for request in requests]
        asked = list(enumerate(answers)) if follow else []
        while asked:
            following = [(i, request) for i, answer in asked if (request := follow(i, answer))]
            if following:
                self.batches.append([request for _, request in following])
            asked = [(i, self._answer(request)) for i, request in following]
        return answers

    def stream(
        self, requests: Iterable[Request | None], follow: Follow | None = None, in_pieces: bool = True
    ) -> Iterator[Chunk]:
        for index, request in enumerate(request for request in requests if request is not None):
            asked: Request | None = request
            while asked is not None:
                self.batches.append([asked])
                answer = self._answer(asked)
                yield from (Chunk(index, letter) for letter in answer.text if in_pieces)
                asked = follow(index, answer) if follow else None
                yield Chunk(index, "" if in_pieces else answer.text, answer)

    def _answer(self, request: Request) -> Answer:
        try:
            text = self.reply(request)
        except AdapterError as error:
            return Answer.failed(error)
        return Answer(text, (), None, None, "stop", Usage(0, 0))
