"""The engine that runs transformers on this machine."""

import logging
import os
from collections.abc import Iterable, Iterator, Sequence, Sized
from functools import cached_property
from itertools import chain, repeat
from pathlib import Path
from typing import Any, Literal, cast, overload

import numpy as np

from engine import scoring
from engine.attention.packed import alone
from engine.backends.conversion import Conversion
from engine.conversation import Follow, gathered
from engine.embedding import DEFAULTS, Embedder
from engine.errors import AdapterError, Unsupported
from engine.generation import generator, stopping
from engine.generation.batched import WAYS, Batching, batching
from engine.generation.generator import Generation
from engine.generation.sampling import Decoding, Row
from engine.loading import Loaded
from engine.options import EmbeddingOptions
from engine.progress import Progress
from engine.prompting.prompter import Prompter
from engine.scoring import Scores
from engine.text import Pieces, following, pieces
from engine.types import Answer, Chunk, Request, Token
from engine.weights.prepacking import prepack, restore

logger = logging.getLogger(__name__)

# Rows that wait for a place: enough to fill each one that gets free, and to form batches of like lengths.
AHEAD = 64
_END = object()


class LocalEngine:
    """Answers requests with a loaded model, whose weights it prepacks for this machine."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.tokenizer = loaded.tokenizer
        self.prompter = Prompter(loaded.tokenizer, loaded.model.config, loaded.window)
        self._dtypes = prepack(loaded.model)
        self._process = os.getpid()

    def generate(self, requests: Sequence[Request], follow: Follow | None = None) -> list[Answer]:
        """An answer for each request, in their order; one that fails carries its error and costs no other.

        Requests that begin alike share what they begin with: the same request n times reads its prompt once.

        Args:
            follow: told each answer as it comes; what it returns is asked next, while the conversation so far
                is still held. The answers to that go to `follow` alone.
        """
        return gathered(self._run(requests, follow, in_pieces=False), len(requests))

    def stream(
        self, requests: Iterable[Request | None], follow: Follow | None = None, in_pieces: bool = True
    ) -> Iterator[Chunk]:
        """As `generate`, piece by piece while the answers grow, those of all requests mixed.

        Requests are taken as rows get free; None among them says that the next one is not there yet, and
        lets the rows go on. A model whose rows cannot be in flight gives each answer as one piece.

        Args:
            in_pieces: False gives each answer whole.
        """
        return self._run(requests, follow, in_pieces)

    @cached_property
    def eos(self) -> frozenset[int]:
        """Token ids that end an answer."""
        return stopping.of(self.loaded.model, self.tokenizer)

    @property
    def token_bytes(self) -> int | None:
        """What the keys and values of a token take; None where answers are not made in flight."""
        return self._sharing[0]

    @property
    def way(self) -> str:
        """How answers are made: "in flight", or one of `engine.generation.batched.WAYS`."""
        size, shared = self._sharing
        return WAYS[shared] if size is None else "in flight"

    @cached_property
    def _sharing(self) -> tuple[int | None, Batching]:
        """See `token_bytes`, and which rows may share a batch where they are not in flight.

        Raises:
            Unsupported: a model that transformers itself cannot generate with.
        """
        model = self.loaded.model
        try:
            return generator.token_bytes(model, self.eos), "padded"
        except Unsupported as reason:
            shared = batching(model, self._pad)
            logger.info("%s answers %s, not in flight: %s", type(model).__name__, WAYS[shared], reason)
            return None, shared

    def _run(
        self, requests: Iterable[Request | None], follow: Follow | None, in_pieces: bool
    ) -> Iterator[Chunk]:
        self._check_process()
        run = _Run(self, follow, in_pieces)
        coming = chain(requests, repeat(_END))
        asked = 0
        with Progress(len(requests) if isinstance(requests, Sized) else 0) as progress:
            while True:
                while run.rows.waiting < AHEAD and isinstance(request := next(coming), Request):
                    yield from run.ask(asked, request)
                    asked += 1
                if run.rows.busy:
                    yield from run.step(progress)
                elif request is _END:
                    return

    @overload
    def score(  # type: ignore[overload-overlap]  # a str is a sequence of str, too
        self, prompt: Request | str, candidates: Sequence[str]
    ) -> Scores: ...

    @overload
    def score(self, prompt: Sequence[Request | str], candidates: Sequence[Sequence[str]]) -> list[Scores]: ...

    def score(self, prompt: Any, candidates: Any) -> Scores | list[Scores]:
        """How likely each candidate is to continue the prompt; of several prompts, each with its own.

        See `engine.scoring.score`.
        """
        self._check_process()
        if isinstance(prompt, str | Request):
            return scoring.score(self.loaded, self.prompter, [prompt], [candidates])[0]
        return scoring.score(self.loaded, self.prompter, prompt, candidates)

    def next_logits(self, prompts: Sequence[Request | str]) -> np.ndarray:
        """The logits after each prompt, float32 (prompts, vocabulary). See `engine.scoring.next_logits`."""
        self._check_process()
        return scoring.next_logits(self.loaded, self.prompter, prompts)

    def embed(
        self,
        texts: Sequence[str] | Sequence[Sequence[int]],
        options: EmbeddingOptions = DEFAULTS,
        kind: str | None = None,
    ) -> np.ndarray:
        """A vector for each text, float32 (texts, dim). See `engine.embedding.Embedder.embed`."""
        self._check_process()
        return self._embedder.embed(texts, options, kind)

    def tokens(
        self, texts: Sequence[str], options: EmbeddingOptions = DEFAULTS, kind: str | None = None
    ) -> list[list[int]]:
        """What `embed` reads of each text."""
        return self._embedder.tokens(texts, options, kind)

    def hidden_states(
        self, texts: Sequence[str], layer: int = -1, reduction: Literal["mean", "sum"] | None = "mean"
    ) -> np.ndarray | list[np.ndarray]:
        """What a layer makes of each text. See `engine.embedding.Embedder.hidden_states`."""
        self._check_process()
        return self._embedder.hidden_states(texts, layer, reduction)

    @cached_property  # It tries the model, and reads its folder.
    def _embedder(self) -> Embedder:
        return Embedder(self.loaded)

    def save(self, folder: str | Path) -> None:
        """Writes model and tokenizer into a folder that `engine.loading.load` takes.

        Of a bfloat16 model that was computed in float32, weights below 8e-6 are rounded to multiples of 6e-8.
        """
        self._check_process()
        with alone(self.loaded.model):
            restore(self.loaded.model, self._dtypes)
            try:
                self.loaded.model.save_pretrained(folder)
                self.tokenizer.save_pretrained(folder)
            finally:
                prepack(self.loaded.model)

    def _check_process(self) -> None:
        # The threads that compute are not copied by a fork, and would be waited for without end.
        if os.getpid() != self._process:
            raise Unsupported(
                f"the model was loaded in process {self._process}, and a forked one cannot run it: load it "
                'in the process that answers, which multiprocessing has to start by "spawn"'
            )

    def rows(self) -> Generation:
        """A run of rows by this model, none in it yet.

        Raises:
            Unsupported: a model that writes no text.
        """
        if not self.loaded.model.can_generate():
            raise Unsupported(f"{type(self.loaded.model).__name__} writes no text: it can only embed")
        return Generation(
            self.loaded.model,
            eos=self.eos,
            pad=self._pad,
            window=self.loaded.window,
            token_bytes=self._sharing[0],
            batching=self._sharing[1],
        )

    @property
    def _pad(self) -> int:
        pad = self.tokenizer.pad_token_id
        return min(self.eos, default=0) if pad is None else pad

    @cached_property
    def conversion(self) -> Conversion:
        """From requests to token ids and back."""
        return Conversion(self.loaded, self.prompter, self.eos)

    def row(self, request: Request) -> Row:
        """A request as the model reads it. See `Conversion.row`."""
        return self.conversion.row(request)

    def answer(self, decoding: Decoding) -> Answer:
        """What was generated for a row, as text."""
        return self.conversion.answer(decoding)

    def prompt_text(self, request: Request) -> str:
        """A plain prompt as the text that its answer goes on from.

        Raises:
            PromptError: it cannot be read.
        """
        return following(self.tokenizer, [], self.conversion.plain(cast(Any, request.prompt)))

    def prompt_tokens(self, request: Request) -> tuple[Token, ...]:
        """The tokens of a plain prompt, with their log-probabilities behind the token that begins a text.

        Raises:
            PromptError: it cannot be read, or the tokenizer has no token that begins a text.
        """
        ids = self.conversion.plain(cast(Any, request.prompt))
        begin = self.prompter.begin_token
        ids = ids[1:] if ids[0] == begin else ids
        ids = ids[:-1] if self.prompter.seq2seq and ids[-1:] == [self.tokenizer.eos_token_id] else ids
        if not ids:
            return ()
        scores = self.score("", cast(Any, [ids]))
        if scores.error:
            raise scores.error
        [scored] = scores.candidates
        texts = pieces(self.tokenizer, ids)
        return tuple(Token(text, logprob) for text, logprob in zip(texts, scored.logprobs, strict=True))


class _Run:
    """One call of an engine: which row belongs to which request."""

    def __init__(self, engine: LocalEngine, follow: Follow | None, in_pieces: bool) -> None:
        self.engine = engine
        self.rows = engine.rows()
        self.follow = follow
        self.in_pieces = in_pieces
        self.asked: dict[Decoding, tuple[int, Pieces | None]] = {}

    def ask(self, index: int, request: Request, soon: bool = False) -> Iterator[Chunk]:
        """Lets a request wait for its row; what cannot be asked is answered at once, by its error."""
        try:
            row = self.engine.row(request)
            decoding = self.rows.add(row, soon)
        except AdapterError as error:
            yield from self._answered(index, Answer.failed(error), "")
        else:
            stop, trim = row.options.stop, row.trim
            before = self.engine.conversion.before(row)
            growing = Pieces(self.engine.tokenizer, stop, trim, before) if self.in_pieces else None
            self.asked[decoding] = index, growing

    def step(self, progress: Progress) -> Iterator[Chunk]:
        """Brings the rows on, and gives what is new."""
        for decoding in self.rows.step():
            index, growing = self.asked[decoding]
            if decoding.live:
                text = growing.add(decoding.tokens[-1]) if growing else ""
                if text:
                    yield Chunk(index, text)
            else:
                del self.asked[decoding]
                progress.answered(len(decoding.generated.token_ids), self.rows.live)
                answer = self.engine.answer(decoding)
                text = growing.rest(answer.text) if growing else answer.text
                yield from self._answered(index, answer, text)

    def _answered(self, index: int, answer: Answer, text: str) -> Iterator[Chunk]:
        following = self.follow(index, answer) if self.follow else None
        yield Chunk(index, text, answer)
        if following is not None:
            yield from self.ask(index, following, soon=True)
