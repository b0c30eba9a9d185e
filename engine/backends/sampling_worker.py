"""A worker that also makes the requests which the confidence of an answer needs: samples, and a question.

The samples of an answer are generated beside it, in the same batch; its last chunk waits for them.
"""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from engine.backends.dispatch import Worker
from engine.backends.wrapper import QueueingWrapper
from engine.confidence import Evidence, Samples, measured
from engine.confidence.asked import CANDIDATES, question
from engine.confidence.clusters import clusters, comparer
from engine.confidence.sampled import require_rouge
from engine.contract import Engine
from engine.errors import AdapterError
from engine.options import GenerationOptions
from engine.types import Answer, Chunk, Request

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Group:
    """A request with its samples; `last` is the last chunk of its answer."""

    request: Request
    missing: int
    texts: list[str] = field(default_factory=list)
    last: Chunk | None = None

    @property
    def complete(self) -> bool:
        return self.last is not None and not self.missing


class SamplingWorker(QueueingWrapper):
    """Runs requests by another worker, and completes the evidence of those whose method needs more."""

    def __init__(self, worker: Worker, engine: Engine) -> None:
        """Takes the worker that generates, and the engine that scores."""
        super().__init__(worker)
        self._engine = engine
        self._groups: dict[int, _Group] = {}
        # Samples have indices below 0, and never the same one twice.
        self._samples: dict[int, _Group] = {}
        self._next = -1
        self._told = False  # Whether it is logged that this backend cannot score.

    def add(self, index: int, request: Request, front: bool) -> list[Chunk]:
        """Adds a request, and queues its samples."""
        options = request.options
        if options.evidence.isdisjoint({"samples", "p_true"}):
            return list(self._worker.add(index, request, front))
        try:
            _prepare(options)
        except AdapterError as error:
            return [Chunk(index, "", Answer.failed(error))]
        count = options.confidence_samples if "samples" in options.evidence else 0
        group = self._groups[index] = _Group(request, count)
        for i in range(count):
            self._samples[self._next] = group
            self._waiting.append((self._next, _sample(request, i), front))
            self._next -= 1
        chunks = self._taken(self._worker.add(index, request, front))
        return [*chunks, *self._taken(self._fill())]

    def drop(self, index: int) -> None:
        """Ends a request that has no answer yet, with its samples."""
        group = self._groups.pop(index, None)
        samples = [sample for sample, its in self._samples.items() if group is not None and its is group]
        for sample in samples:
            del self._samples[sample]
        self._withdraw(samples)
        if group is None or group.last is None:
            self._worker.drop(index)

    def step(self, block: bool) -> Iterator[Chunk]:
        """Runs for a moment, and gives the chunks that are new."""
        yield from self._taken(self._fill())
        if self._worker.busy:
            yield from self._taken(self._worker.step(block))
        yield from self._completed()

    def _taken(self, chunks: Iterable[Chunk]) -> Iterator[Chunk]:
        """The chunks that are for the caller; samples, and answers whose samples are missing, are kept."""
        for chunk in chunks:
            group = self._groups.get(chunk.index)
            if chunk.index < 0:
                if chunk.answer is not None:
                    self._keep(self._samples.pop(chunk.index), chunk.answer)
            elif group is None or chunk.answer is None:
                yield chunk
            elif chunk.answer.error is not None:
                del self._groups[chunk.index]
                yield chunk
            else:
                group.last = chunk

    def _keep(self, group: _Group, sample: Answer) -> None:
        group.missing -= 1
        if sample.error is None:
            group.texts.append(sample.text)
        else:
            logger.debug("a sample has no answer: %s", sample.error)

    def _completed(self) -> list[Chunk]:
        """The last chunks of answers that have all their samples, with their confidence."""
        groups = [group for group in self._groups.values() if group.complete]
        asked = self._asked(groups)
        chunks = []
        for i, group in enumerate(groups):
            last, options = group.last, group.request.options
            assert last is not None
            assert last.answer is not None
            del self._groups[last.index]
            samples = _samples(last.answer.text, group.texts, options)
            evidence = replace(last.answer.evidence or Evidence(), samples=samples, p_true=asked.get(i))
            found = measured(options.confidence, options.confidence_methods, evidence)
            chunks.append(replace(last, answer=replace(last.answer, **found)))
        return chunks

    def _asked(self, groups: list[_Group]) -> dict[int, float]:
        """The probability that each answer is right, by the model's own word; of groups that ask for it."""
        asked = [i for i, group in enumerate(groups) if "p_true" in group.request.options.evidence]
        if not asked:
            return {}
        if "score" not in self._engine.supports:
            if not self._told:
                logger.warning("p_true needs a backend that scores texts: confidence is unknown")
            self._told = True
            return {}
        prompts = [question(self._engine, groups[i].request, _answer(groups[i])) for i in asked]
        scores = self._engine.score(prompts, [CANDIDATES[isinstance(prompt, str)] for prompt in prompts])
        return {
            i: found.candidates[0].probability
            for i, found in zip(asked, scores, strict=True)
            if found.error is None
        }


def _prepare(options: GenerationOptions) -> None:
    """Raises an `AdapterError` where a chosen method could not be computed in the end."""
    methods = {options.confidence, *options.confidence_methods}
    if "lexical_similarity" in methods:
        require_rouge()
    if "semantic_entropy" in methods and options.confidence_model is not None:
        comparer(options.confidence_model)


def _sample(request: Request, number: int) -> Request:
    """A request for a sample: with the request's temperature where it samples, else 1; always seeded."""
    options = request.options
    changed = {
        "do_sample": True,
        "temperature": options.temperature or 1.0,
        "seed": ((options.seed or 0) + number + 1) % 2**63,
        "confidence": "min_token",
        "confidence_methods": (),
        "logprobs": False,
        "top_logprobs": 0,
    }
    return replace(request, options=options.model_copy(update=changed))


def _samples(answer: str, texts: list[str], options: GenerationOptions) -> Samples | None:
    if "samples" not in options.evidence:
        return None
    if "semantic_entropy" not in (options.confidence, *options.confidence_methods):
        return Samples(answer, tuple(texts))
    assert options.confidence_model is not None
    same = comparer(options.confidence_model)
    return Samples(answer, tuple(texts), clusters(texts, same, options.confidence_similarity))


def _answer(group: _Group) -> str:
    assert group.last is not None
    return group.last.answer.text if group.last.answer is not None else ""
