"""`VLLMEngine`: prompts are made as for local weights, vLLM computes, and the endpoint engine asks it."""

import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, Literal, TypeVar, cast

import numpy as np

from engine.backends.conversion import Conversion
from engine.backends.endpoint import EndpointEngine, routes
from engine.backends.endpoint.wire import Client
from engine.backends.vllm import embedding, scoring
from engine.backends.vllm.arguments import SERVED_NAME, arguments
from engine.backends.vllm.process import VLLMProcess
from engine.backends.vllm.server import VLLMServer
from engine.contract import Candidate
from engine.embedding.sentence_settings import SentenceSettings, read_settings
from engine.errors import AdapterError, Unsupported
from engine.generation.stopping import eos_token_ids
from engine.loading import Loaded, describe
from engine.options import EmbeddingOptions, EndpointOptions, LoadOptions, VLLMOptions
from engine.prompting.prompter import Prompter
from engine.scoring import NumberedPair, Scores, score_pairs
from engine.text import decode_after, encodable
from engine.types import Image, Request

Result = TypeVar("Result")

# vLLM batches what it is sent, and a request may wait there for long before it is answered.
MAX_CONCURRENT, TIMEOUT = 256, 3600.0
# Tokens at a prompt's end that a mark of reasoning is in.
_END = 64


class VLLMEngine(EndpointEngine):
    """Starts vLLM as a child process, and ends it at the latest with this process.

    A conversation is sent as token ids, so that chat template, windows and control tokens are those of a
    model that is loaded here; one with images is sent as it is.
    """

    def __init__(
        self,
        load: LoadOptions,
        vllm: VLLMOptions,
        endpoint: EndpointOptions,
        task: Literal["generate", "embed"] = "generate",
    ) -> None:
        """Starts vLLM, and waits until it answers.

        Raises:
            ConfigurationError: vLLM is not installed, or an option does not fit it.
            LoadError: the model cannot be read, or vLLM ends; the text has the last lines of its log.
        """
        self.task, self._load = task, load
        self.description = describe(load, task)
        given = arguments(load, vllm, task, self.description.config.dtype)
        more = embedding.pooler_arguments(self._sentences) if task == "embed" else []
        self.process = VLLMProcess(vllm.vllm_python, [*given, *more])
        self.process.start()
        weakref.finalize(self, self.process.stop)
        defaults = {"max_concurrent": MAX_CONCURRENT, "timeout": TIMEOUT}
        unset = {key: value for key, value in defaults.items() if key not in endpoint.model_fields_set}
        options = endpoint.model_copy(update={"model_name": SERVED_NAME, "api": "openai", **unset})
        super().__init__(options, VLLMServer(options, self.process))
        self._context_length = self.process.max_model_len()
        self.prompter = Prompter(self.description.tokenizer, self.description.config, self._context_length)
        # What `Conversion` and `eos_token_ids` read of a model is its configurations.
        shell = cast(Any, self.description)
        self._eos = eos_token_ids(shell, self.description.tokenizer)
        loaded = Loaded(shell, self.description.tokenizer, self._context_length, load)
        self._conversion = Conversion(loaded, self.prompter, self._eos)

    def close(self) -> None:
        """Ends vLLM."""
        self.process.stop()

    @property
    def context_length(self) -> int | None:
        """The most tokens of a sequence, as vLLM says it."""
        return self._context_length

    def count_tokens(self, text: str) -> int:
        """The number of tokens of a text, without special tokens."""
        return len(
            self.description.tokenizer(encodable(text), add_special_tokens=False, verbose=False)["input_ids"]
        )

    def prompt_text(self, request: Request) -> str:
        """The plain prompt of a request as text: its answer continues it.

        Raises:
            PromptError: it cannot be read.
        """
        return decode_after(self.description.tokenizer, [], self._conversion.encode_plain(request))

    def score(
        self, prompts: Sequence[Request | str], candidates: Sequence[Sequence[Candidate]]
    ) -> list[Scores]:
        """The log-probability of each candidate as the continuation of its prompt.

        vLLM reads a prompt anew for each of its candidates.

        Args:
            prompts: conversations or plain prompts; the token ids of one are read as their text.
            candidates: for each prompt a list of at least one candidate.

        Returns:
            One for each prompt, in their order; a failed one carries its error.

        Raises:
            PromptError: the number of prompts is not the number of lists of candidates.
            Unsupported: a model that is loaded to embed.
        """
        if self.task == "embed":
            raise Unsupported("this model was started to embed, and does not score")
        return score_pairs(self._scored_prompts, prompts, candidates, self._logprobs)

    def embed(
        self,
        texts: Sequence[str] | Sequence[Sequence[int]],
        options: EmbeddingOptions | None = None,
        kind: str | None = None,
    ) -> np.ndarray:
        """An embedding of each text, as the local backend gives it.

        Args:
            texts: texts, or token ids, which are read as they are.
            kind: "query", "document" or another prompt of the model's folder; None: its default prompt.

        Returns:
            float32 (texts, dim).

        Raises:
            ConfigurationError: an unknown `kind`, or an option that vLLM does not have.
            GenerationError: no embeddings; the text says why.
            Unsupported: a model that is loaded to answer.
        """
        if self.task != "embed":
            raise Unsupported(
                'vLLM either answers or embeds, and was started to answer: set task = "embed" in a model '
                "file of its own, or backend to local"
            )
        return self._embedder.embed(texts, options or EmbeddingOptions(), kind)

    @cached_property
    def _embedder(self) -> embedding.VLLMEmbedder:
        return embedding.VLLMEmbedder(self._sentences, self.description, self._vectors_of)

    @cached_property
    def _sentences(self) -> SentenceSettings:
        return read_settings(self._load)

    @cached_property
    def _scored_prompts(self) -> Prompter:
        # vLLM reads the last token of a candidate, too, and generates one.
        length = self._context_length
        return Prompter(
            self.description.tokenizer, self.description.config, None if length is None else length - 2
        )

    def _prepared(self, request: Request) -> Request:
        if any(isinstance(part, Image) for message in request.messages for part in message.parts):
            return super()._prepared(request)
        # vLLM binds an answer to a form, which nothing here does.
        free = request.options.model_copy(update={"response_format": None})
        tokenized = self._conversion.encode(replace(request, options=free))
        options, own = tokenized.options, self.description.generation_config
        update = {
            "max_new_tokens": tokenized.max_new_tokens,
            "eos_token_id": tuple(sorted(self._eos | tokenized.end_tokens)),
            "response_format": request.options.response_format,
        }
        if options.repetition_penalty is None and own is not None:
            update["repetition_penalty"] = own.repetition_penalty
        return Request(request.messages, options.model_copy(update=update), tuple(tokenized.prompt))

    def _end_of(self, request: Request) -> str:
        assert isinstance(request.prompt, tuple)
        return str(self.description.tokenizer.decode(list(request.prompt[-_END:])))

    def _completion(
        self, client: Client, request: Request, stream: bool, rejected: frozenset[str]
    ) -> AsyncIterator[Any]:
        options = request.options
        more = {
            "stop_token_ids": options.eos_token_id,
            "min_tokens": options.min_new_tokens,
            "return_token_ids": True,
        }
        rest = options.model_copy(update={"eos_token_id": (), "min_new_tokens": 0})
        return routes.completion(client, replace(request, options=rest), stream, rejected, more)

    def _logprobs(self, pairs: Sequence[NumberedPair]) -> Iterable[list[float] | AdapterError]:
        return self._each([partial(scoring.logprobs, pair=pair) for _, pair in pairs])

    def _vectors_of(self, tokens: Sequence[Sequence[int]]) -> list[np.ndarray]:
        calls = [
            partial(embedding.vectors, tokens=tokens[i : i + embedding.BATCH])
            for i in range(0, len(tokens), embedding.BATCH)
        ]
        found: list[np.ndarray] = []
        for result in self._each(calls):
            if isinstance(result, AdapterError):
                raise result
            found += result
        return found

    def _each(self, calls: Sequence[Callable[[Client], Awaitable[Result]]]) -> list[Result | AdapterError]:
        """The result of each call, or its error; all are made at a time."""
        running = [self._submit(self._server.ask(call)) for call in calls]
        results: list[Result | AdapterError] = []
        try:
            for future in running:
                try:
                    results.append(future.result())
                except AdapterError as error:
                    results.append(error)
        finally:
            for future in running:
                future.cancel()
        return results

    def unsupported(self, name: str) -> Unsupported:
        """The error of what vLLM's server does not give."""
        return Unsupported(f"vLLM's server gives no {name}: set backend to local")
