"""Models that answer what a test says, letter by letter, each letter a token."""

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from adapters.hugging import HuggingAdapter
from engine.contract import Follow
from engine.types import Answer, Chunk, Request, Token, Usage
from tests.fakes import FakeEngine

Reply = Callable[[Request], str]
Step = Callable[[], object]


class LettersEngine(FakeEngine):
    """Each letter is a token of probability 0.8, beside "?" of 0.1.

    `step` is called before each chunk; `ended` is set when a stream ends.
    """

    def __init__(self, reply: Reply, step: Step = lambda: None) -> None:
        super().__init__(reply)
        self.step = step
        self.ended = threading.Event()

    def stream(
        self, requests: Iterable[Request | None], follow: Follow | None = None, deltas: bool = True
    ) -> Iterator[Chunk]:
        try:
            for chunk in super().stream(requests, follow, deltas):
                self.step()
                yield chunk
        finally:
            self.ended.set()

    def _answer(self, request: Request) -> Answer:
        answer = super()._answer(request)
        if answer.error is not None:
            return answer
        rival = ("?", math.log(0.1))
        tokens = tuple(
            Token(letter, math.log(0.8), ((letter, math.log(0.8)), rival)) for letter in answer.text
        )
        return replace(answer, tokens=tokens, confidence=0.8, usage=Usage(1, len(tokens)))


class Model(HuggingAdapter):
    """A loaded model."""

    name = "fake"

    def __init__(
        self,
        reply: Reply,
        name: str = "fake",
        step: Step = lambda: None,
        examples: Sequence[str] = (),
        weights: str = "none",
    ) -> None:
        super().__init__({"model_name": weights})
        self.name = name
        self.examples = examples
        self._engine = LettersEngine(reply, step)
