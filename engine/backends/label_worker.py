"""Label mode: requests with labels are answered by scoring these; nothing is generated for them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from engine.backends.dispatch import Worker
from engine.backends.wrapper import WorkerWrapper
from engine.contract import Engine
from engine.errors import AdapterError, ConfigurationError
from engine.labels import candidates, probabilities, without_question
from engine.types import Answer, Chunk, Request, Usage

if TYPE_CHECKING:
    from engine.scoring import Scores

# Requests that are scored together.
BATCH = 256


class LabelWorker(WorkerWrapper):
    """Scores the requests that have labels, many together; another worker runs the others."""

    def __init__(self, worker: Worker, engine: Engine) -> None:
        """Takes the worker that generates, and the engine that scores."""
        super().__init__(worker)
        self._engine = engine
        self._waiting: list[tuple[int, Request]] = []
        # Scores without the question: most requests differ in nothing else.
        self._priors: dict[Request, Scores] = {}

    @property
    def has_room(self) -> bool:
        """Whether another request may be added."""
        return len(self._waiting) < BATCH and super().has_room

    @property
    def busy(self) -> bool:
        """Whether any request has no answer yet."""
        return bool(self._waiting) or super().busy

    def add(self, index: int, request: Request, front: bool) -> Iterable[Chunk]:
        """Queues a request with labels; hands others on."""
        if not request.options.labels:
            return self._worker.add(index, request, front)
        if "score" not in self._engine.supports:
            reason = "labels needs a backend that scores texts: set backend to local, or leave labels out"
            return [Chunk(index, "", Answer.failed(ConfigurationError(reason)))]
        self._waiting.append((index, request))
        return []

    def drop(self, index: int) -> None:
        """Ends a request that has no answer yet."""
        left = [one for one in self._waiting if one[0] != index]
        if len(left) == len(self._waiting):
            self._worker.drop(index)
        self._waiting = left

    def step(self, block: bool) -> Iterator[Chunk]:
        """Answers all queued requests with labels, then runs the others for a moment."""
        asked, self._waiting = self._waiting, []
        if asked:
            requests = [request for _, request in asked]
            scores = self._scores(requests)
            self._add_priors(requests)
            for (index, request), found in zip(asked, scores, strict=True):
                answer = self._answer(request, found)
                yield Chunk(index, answer.text, answer)
        if self._worker.busy:
            yield from self._worker.step(block and not asked)

    def _answer(self, request: Request, scores: Scores) -> Answer:
        labels, prior = request.options.labels, None
        try:
            if request.options.label_prior:
                prior = _successful(self._priors[without_question(request)])
            successful = _successful(scores)
            found = probabilities(labels, successful.candidates, None if prior is None else prior.candidates)
        except AdapterError as error:
            return Answer.failed(error)
        best = max(labels, key=lambda label: found[label])
        score = successful.candidates[labels.index(best)]
        return Answer(
            text=best,
            token_ids=score.token_ids,
            logprobs=score.logprobs,
            confidence=found[best],
            finish_reason="stop",
            usage=Usage(0, 0),
            labels=found,
        )

    def _add_priors(self, requests: Sequence[Request]) -> None:
        """Scores what has not been scored yet of the requests without their questions."""
        asked = {without_question(request) for request in requests if request.options.label_prior}
        new = [request for request in asked if request not in self._priors]
        if new:
            self._priors.update(zip(new, self._scores(new), strict=True))

    def _scores(self, requests: Sequence[Request]) -> list[Scores]:
        return self._engine.score(requests, [candidates(request) for request in requests])


def _successful(scores: Scores) -> Scores:
    if scores.error is not None:
        raise scores.error
    return scores
