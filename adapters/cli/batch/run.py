"""Answers the requests of a batch file, all in one batch, each written as soon as it is answered."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from adapters.cli.batch.results import Results
from adapters.openai_api import batch_lines
from adapters.openai_api.batch_lines import NoRequest
from adapters.openai_api.bodies import ROUTES, Embedding, Generation
from adapters.openai_api.errors import Refused
from adapters.openai_api.requests import OpenAICalls, successful
from adapters.openai_api.responses import Echo
from engine.errors import AdapterError, GenerationError
from engine.types import Answer, Request

logger = logging.getLogger(__name__)

# Requests whose texts are embedded together.
TOGETHER = 128


def is_batch(path: str) -> bool:
    """Whether a file has the requests of a batch: its first line that is a JSON object decides."""
    if Path(path).suffix != ".jsonl" or not Path(path).is_file():
        return False
    try:
        with open(path, "rb") as lines:
            return next((found for found in map(batch_lines.is_request, lines) if found is not None), False)
    except OSError:
        return False  # Whoever reads it says why.


@dataclass(eq=False, slots=True)
class _Open:
    """A request that is being answered; `answers` by the place of their prompt."""

    custom_id: str
    asked: Generation
    echoes: list[Echo]
    answers: dict[int, Answer] = field(default_factory=dict)


class BatchRun:
    """One run over the lines of a batch file."""

    def __init__(self, model: OpenAICalls, results: Results, told: Callable[[], object]) -> None:
        """Takes a loaded model.

        Args:
            told: called for each line that is done.
        """
        self._model = model
        self._results = results
        self._told = told
        self._open: dict[str, _Open] = {}
        self._texts: list[tuple[str, Embedding]] = []

    def run(self, lines: Iterable[bytes]) -> None:
        """Answers each request that has no answer yet; what cannot be answered costs no other its answer."""
        coming = self._requests(lines)
        while (first := next(coming, None)) is not None:
            error = self._generate(chain([first], coming))
            if error is not None:
                for name in list(self._open):
                    self._fail(name, error)

    def _generate(self, coming: Iterable[tuple[_Open, Request]]) -> AdapterError | None:
        """Answers requests; returns the error that has ended it before all of them had an answer."""
        taken: dict[int, _Open] = {}

        def requests() -> Iterator[Request]:
            for index, (entry, request) in enumerate(coming):
                taken[index] = entry
                yield request

        try:
            for chunk in self._model.engine.stream(requests(), deltas=False):
                if chunk.answer is not None:
                    self._take(taken.pop(chunk.index), chunk.index, chunk.answer)
        except AdapterError as error:
            return error
        except Exception as error:  # Third-party code: any exception is possible.
            logger.debug("the batch failed", exc_info=True)
            return GenerationError(f"the model failed ({type(error).__name__}): run again")
        return None

    def _requests(self, lines: Iterable[bytes]) -> Iterator[tuple[_Open, Request]]:
        """The requests to be generated; those to be embedded are answered on the way."""
        seen: set[str] = set()
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                name, asked = self._asked(line, number, seen)
            except NoRequest as error:
                self._results.fail(batch_lines.refused(error), f"line {number}", str(error))
                self._told()
                continue
            if isinstance(asked, Embedding):
                self._texts.append((name, asked))
                if len(self._texts) >= TOGETHER:
                    self._embed()
            elif asked is not None:
                entry = self._open[name] = asked
                for request in asked.asked.call.requests:
                    if name in self._open:  # Else one of them has failed.
                        yield entry, request
        self._embed()

    def _asked(self, line: bytes, number: int, seen: set[str]) -> tuple[str, _Open | Embedding | None]:
        """A line's custom_id and what it asks for; None if it is done: has an answer already, or an error.

        Raises:
            NoRequest: it is no request, or another one has its custom_id.
        """
        request = batch_lines.parsed(line)
        name = request.custom_id
        if name in seen:
            said = f"another line has custom_id {name!r}: give each its own"
            raise NoRequest("duplicate_custom_id", said, name)
        seen.add(name)
        if name in self._results.done:
            self._told()
            return name, None
        try:
            asked = ROUTES[request.url](self._model, request.body)
            if isinstance(asked, Embedding):
                return name, asked
            return name, _Open(name, asked, self._model.echoes(asked.call))
        except AdapterError as error:
            self._fail(name, error)
        except Exception as error:  # A body of any shape.
            logger.debug("a request could not be read", exc_info=True)
            self._fail(name, Refused(400, f"the body cannot be read ({type(error).__name__}): check it"))
        return name, None

    def _take(self, entry: _Open, index: int, answer: Answer) -> None:
        if entry.custom_id not in self._open:
            return
        try:
            entry.answers[index] = successful(answer)
            if len(entry.answers) < len(entry.asked.call.requests):
                return
            answers = [entry.answers[place] for place in sorted(entry.answers)]
            line = batch_lines.answered(entry.custom_id, entry.asked.whole(answers, entry.echoes))
        except AdapterError as error:
            self._fail(entry.custom_id, error)
            return
        del self._open[entry.custom_id]
        self._results.answer(line)
        self._told()

    def _embed(self) -> None:
        """Embeds the texts that wait, those with equal options in one batch."""
        groups: dict[str, list[tuple[str, Embedding]]] = {}
        for name, asked in self._texts:
            alike = [type(asked.texts[0]).__name__, asked.kind, asked.options]
            groups.setdefault(json.dumps(alike, default=str, sort_keys=True), []).append((name, asked))
        self._texts = []
        for group in groups.values():
            self._embed_together(group)

    def _embed_together(self, group: list[tuple[str, Embedding]]) -> None:
        first = group[0][1]
        try:
            texts = [asked.texts for _, asked in group]
            found = self._model.embedded_together(texts, first.kind, first.options)
        except Exception as error:  # Of one of them, it may be.
            if len(group) > 1:
                for one in group:
                    self._embed_together([one])
                return
            logger.debug("texts could not be embedded", exc_info=True)
            said = f"the model failed ({type(error).__name__}): run again"
            self._fail(group[0][0], error if isinstance(error, AdapterError) else GenerationError(said))
            return
        for (name, asked), (vectors, tokens) in zip(group, found, strict=True):
            self._results.answer(batch_lines.answered(name, asked.whole(vectors, tokens)))
            self._told()

    def _fail(self, custom_id: str, error: AdapterError) -> None:
        self._open.pop(custom_id, None)
        self._results.fail(batch_lines.failed(custom_id, error), f"request {custom_id!r}", str(error))
        self._told()
