"""Answers that a second model judges: those of a step are scored together, before their last chunks come."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace

from engine.backends.dispatch import Worker
from engine.backends.wrapper import WorkerWrapper
from engine.confidence import Evidence
from engine.confidence.judge import CANDIDATES, question
from engine.confidence.second_model import second_model
from engine.contract import Engine
from engine.errors import AdapterError
from engine.types import Answer, Chunk, Request

logger = logging.getLogger(__name__)


class JudgeWorker(WorkerWrapper):
    """Runs requests by another worker, and adds the judge's score to the answers of those that name one."""

    def __init__(self, worker: Worker, engine: Engine) -> None:
        """Takes the worker that answers, and its engine."""
        super().__init__(worker)
        self._engine = engine
        self._asked: dict[int, Request] = {}
        # Judges that cannot be loaded: not tried again for each request.
        self._failed: dict[str, AdapterError] = {}
        self._told = False  # Whether it is logged that an answer has no score.

    def add(self, index: int, request: Request, front: bool) -> list[Chunk]:
        """Adds a request, once its judge is there."""
        judge = request.options.judge
        if judge is not None:
            if (error := self._error(judge)) is not None:
                return [Chunk(index, "", Answer.failed(error))]
            self._asked[index] = request
        return list(self._judged(self._worker.add(index, request, front)))

    def drop(self, index: int) -> None:
        """Ends a request that has no answer yet."""
        self._asked.pop(index, None)
        self._worker.drop(index)

    def step(self, block: bool) -> Iterator[Chunk]:
        """Runs for a moment, and gives the chunks that are new."""
        yield from self._judged(self._worker.step(block))

    def _error(self, judge: str) -> AdapterError | None:
        if judge not in self._failed:
            try:
                second_model(judge, "generate").check_can_generate()
            except AdapterError as error:
                self._failed[judge] = type(error)(f"option 'judge': {error}")
        return self._failed.get(judge)

    def _judged(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """The chunks, those with an answer to be judged at the end."""
        ended: list[tuple[Request, Chunk, Answer]] = []
        for chunk in chunks:
            request = None if chunk.answer is None else self._asked.pop(chunk.index, None)
            if chunk.answer is None or request is None or chunk.answer.error is not None:
                yield chunk
            else:
                ended.append((request, chunk, chunk.answer))
        for judge in {request.options.judge: None for request, _, _ in ended}:
            assert judge is not None
            yield from self._scored(judge, [one for one in ended if one[0].options.judge == judge])

    def _scored(self, judge: str, ended: list[tuple[Request, Chunk, Answer]]) -> Iterator[Chunk]:
        asked: dict[int, Request] = {}
        for i, (request, _, answer) in enumerate(ended):
            try:
                asked[i] = question(self._engine, request, answer.text)
            except AdapterError as error:
                self._tell(error)
        scores = second_model(judge, "generate").score(list(asked.values()), [CANDIDATES] * len(asked))
        found: dict[int, float] = {}
        for i, score in zip(asked, scores, strict=True):
            if score.error is None:
                found[i] = score.candidates[0].probability
            else:
                self._tell(score.error)
        for i, (request, chunk, answer) in enumerate(ended):
            yield replace(chunk, answer=_with_score(request, answer, found.get(i)))

    def _tell(self, error: AdapterError) -> None:
        if not self._told:
            logger.warning("an answer cannot be judged, and has no score of the judge: %s", error)
        self._told = True


def _with_score(request: Request, answer: Answer, score: float | None) -> Answer:
    known = replace(
        answer,
        confidences={**answer.confidences, "judge": score},
        evidence=replace(answer.evidence or Evidence(), judge=score),
    )
    return replace(known, confidence=score) if request.options.confidence == "judge" else known
