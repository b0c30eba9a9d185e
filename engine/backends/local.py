"""The backend that runs transformers on this machine."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from engine import scoring
from engine.answer_cache import AnswerCache
from engine.backends.conversion import Conversion
from engine.backends.loaded_model import LoadedModel
from engine.backends.local_worker import LocalWorker
from engine.backends.workers import answered
from engine.contract import Candidate, Follow, Reduction
from engine.embedding import DEFAULTS, Embedder
from engine.errors import ConfigurationError, Unsupported
from engine.generation.generator import Generator
from engine.generation.stopping import eos_token_ids
from engine.generation.support import BatchingSupport, find_batching
from engine.loading import Loaded
from engine.loading.files import revision_of
from engine.loading.identity import identity
from engine.options import EmbeddingOptions
from engine.prompting.prompter import Prompter
from engine.scoring import Scores
from engine.text import decode_after, token_texts
from engine.types import Chunk, Request, Token


class LocalEngine(LoadedModel):
    """Generates, scores and embeds with a loaded model on this machine."""

    def __init__(self, loaded: Loaded) -> None:
        """Prepacks the model's weights."""
        super().__init__(loaded)
        self.prompter = Prompter(loaded.tokenizer, loaded.model.config, loaded.context_length)
        self._revision = revision_of(loaded.options) if loaded.options is not None else None

    def stream(
        self, requests: Iterable[Request | None], follow: Follow | None = None, deltas: bool = True
    ) -> Iterator[Chunk]:
        """Answers requests by continuous (in-flight) batching where the model allows it, else in batches.

        Equal beginnings of prompts are computed once, and the KV cache of a conversation is kept for the
        request that `follow` returns.

        Args:
            requests: taken while few of them wait. None means that the next one is not there yet.
            follow: callback for each answer, called before its last chunk is given. The request that it
                returns is answered next, under the same index.
            deltas: whether answers come in deltas; if False, and for a model that answers in batches, each
                comes as one chunk.

        Raises:
            Unsupported: a model that writes no text, or one that was loaded before a fork.
        """
        self.check_process()
        generator = self.new_generator()
        worker = LocalWorker(self.conversion, generator, deltas)
        try:
            yield from answered(requests, follow, worker, self)
        finally:
            self._kv_cache = max(self._kv_cache, generator.kv_cache_bytes)

    def cache_in(self, folder: str | Path) -> None:
        """Keeps answers in a folder, and takes them from there: see `AnswerCache`.

        Raises:
            ConfigurationError: the folder cannot be written, or the model does not come from files.
        """
        options = self.loaded.options
        if options is None:
            raise ConfigurationError("option 'cache' needs a model that was loaded from files")
        self.cache = AnswerCache(
            folder, identity(options), lambda request: self.conversion.encode(request).prompt
        )

    @property
    def revision(self) -> str | None:
        """The commit of the weights on the hub, or else the configured revision; None for a local folder."""
        return self._revision

    @cached_property
    def eos(self) -> frozenset[int]:
        """Token ids that end an answer."""
        return eos_token_ids(self.loaded.model, self.tokenizer)

    @cached_property
    def batching(self) -> BatchingSupport:
        """How the model's sequences may be batched; tried once.

        Raises:
            Unsupported: a model that transformers itself cannot generate with.
        """
        compiled = self.loaded.options is not None and self.loaded.options.compile
        return find_batching(self.loaded.model, self.eos, self._pad, compiled)

    def score(
        self, prompts: Sequence[Request | str], candidates: Sequence[Sequence[Candidate]]
    ) -> list[Scores]:
        """The log-probability of each candidate as the continuation of its prompt.

        Args:
            prompts: conversations, or plain texts that are read as they are.
            candidates: for each prompt a list of at least one candidate.

        Returns:
            One for each prompt, in their order; a failed one carries its error.

        Raises:
            PromptError: the number of prompts is not the number of lists of candidates.
            Unsupported: a model that cannot score, or one that was loaded before a fork.
        """
        self.check_process()
        return scoring.score(self.loaded, self.prompter, prompts, candidates)

    def next_logits(self, prompts: Sequence[Request | str]) -> np.ndarray:
        """The logits of the token after each prompt.

        Returns:
            float32 (prompts, vocabulary).

        Raises:
            PromptError: a prompt that cannot be read.
            GenerationError: a prompt that the model fails on.
            Unsupported: a model that was loaded before a fork.
        """
        self.check_process()
        return scoring.next_logits(self.loaded, self.prompter, prompts)

    def embed(
        self,
        texts: Sequence[str] | Sequence[Sequence[int]],
        options: EmbeddingOptions | None = None,
        kind: str | None = None,
    ) -> np.ndarray:
        """An embedding of each text.

        Args:
            texts: texts, or token ids, which are read as they are.
            kind: "query", "document" or another prompt of the model's folder; None: its default prompt.

        Returns:
            float32 (texts, dim).

        Raises:
            ConfigurationError: an unknown `kind`, or a `max_length` that leaves no room for a text.
            Unsupported: a model without hidden states, or one that was loaded before a fork.
        """
        self.check_process()
        return self._embedder.embed(texts, options or DEFAULTS, kind)

    def token_ids(
        self, texts: Sequence[str], options: EmbeddingOptions | None = None, kind: str | None = None
    ) -> list[list[int]]:
        """The token ids that `embed` reads of each text.

        Raises:
            ConfigurationError: an unknown `kind`, or a `max_length` that leaves no room for a text.
        """
        return self._embedder.token_ids(texts, options or DEFAULTS, kind)

    def hidden_states(
        self, texts: Sequence[str], layer: int = -1, reduction: Reduction | None = "mean"
    ) -> np.ndarray | list[np.ndarray]:
        """The hidden states of a layer for each text.

        Args:
            layer: 0 is the embeddings, 1 the first layer's output, -1 the last hidden states.
            reduction: over the tokens of a text; None keeps them.

        Returns:
            float32 (texts, dim); without a reduction a list of (tokens, dim), one for each text.

        Raises:
            ConfigurationError: a layer that the model does not have.
            Unsupported: a model without hidden states, or one that was loaded before a fork.
        """
        self.check_process()
        return self._embedder.hidden_states(texts, layer, reduction)

    @cached_property  # It runs a trial of the model, and reads its folder.
    def _embedder(self) -> Embedder:
        return Embedder(self.loaded)

    def save(self, folder: str | Path) -> None:
        """As `LoadedModel.save`, which prepacks the weights again."""
        try:
            super().save(folder)
        finally:
            vars(self).pop("batching", None)  # Its recording holds the weights that were prepacked before.

    def check_can_generate(self) -> None:
        """Checks that the model writes text.

        Raises:
            Unsupported: it has no language model head, or transformers itself cannot generate with it.
        """
        if self.loaded.classifies:
            raise Unsupported(
                f"{type(self.loaded.model).__name__} scores or labels texts: take a model that writes"
            )
        if not self.loaded.model.can_generate():
            raise Unsupported(f"{type(self.loaded.model).__name__} writes no text: it can only embed")
        _ = self.batching

    def new_generator(self) -> Generator:
        """A generator with this model, and no sequences yet.

        Raises:
            Unsupported: a model that writes no text.
        """
        self.check_can_generate()
        return Generator(
            self.loaded.model,
            eos=self.eos,
            pad=self._pad,
            context_length=self.loaded.context_length,
            support=self.batching,
        )

    @property
    def _pad(self) -> int:
        pad = self.tokenizer.pad_token_id
        return min(self.eos, default=0) if pad is None else pad

    @cached_property
    def conversion(self) -> Conversion:
        """Encodes requests and decodes answers."""
        return Conversion(self.loaded, self.prompter, self.eos)

    def prompt_text(self, request: Request) -> str:
        """The plain prompt of a request as text: its answer continues it.

        Raises:
            PromptError: it cannot be read.
        """
        return decode_after(self.tokenizer, [], self.conversion.encode_plain(request))

    def prompt_tokens(self, request: Request) -> tuple[Token, ...]:
        """The tokens of a request's plain prompt with their log-probabilities, without the bos token.

        Raises:
            PromptError: it cannot be read, or the tokenizer has no bos token.
        """
        ids = self.conversion.encode_plain(request)
        begin = self.prompter.begin_token
        ids = ids[1:] if ids[0] == begin else ids
        ids = ids[:-1] if self.prompter.seq2seq and ids[-1:] == [self.tokenizer.eos_token_id] else ids
        if not ids:
            return ()
        [scores] = self.score([""], [[ids]])
        if scores.error:
            raise scores.error
        [scored] = scores.candidates
        texts = token_texts(self.tokenizer, ids)
        return tuple(Token(text, logprob) for text, logprob in zip(texts, scored.logprobs, strict=True))
