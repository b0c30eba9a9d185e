"""OpenAI's calls as methods of a model: what is called → requests to the engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, ClassVar

from adapters.openai_api import responses
from adapters.openai_api.parameters import IGNORED, check_plain_prompt, split
from adapters.openai_api.prompts import Chat, Prompt, Texts, inputs_of, messages_of, texts_of
from adapters.openai_api.responses import Certainty, Echo, Head
from engine.configuration import Configuration, override
from engine.contract import Engine
from engine.errors import ConfigurationError, Unsupported
from engine.options import GenerationOptions
from engine.types import Answer, Chunk, Request

if TYPE_CHECKING:
    import numpy as np
    from openai.types import Completion, CreateEmbeddingResponse
    from openai.types.chat import ChatCompletion, ChatCompletionChunk


class UnknownModel(ConfigurationError):
    """A model that is asked for by a name that it does not have."""


@dataclass(frozen=True, slots=True)
class Call:
    """A call as requests to the engine.

    Attributes:
        head: what the response says besides the answers.
        requests: `head.n` for each prompt, those of one prompt one after another.
        stream: whether the response is a stream.
        echo: whether the texts begin with their prompts.
    """

    head: Head
    requests: list[Request]
    stream: bool
    echo: bool = False


class OpenAICalls(ABC):
    """The calls of OpenAI's API. They need the package `openai`.

    Attributes:
        model_deploys: public names of the model besides its own; the configuration may add some.
    """

    model_deploys: ClassVar[Sequence[str]] = ()
    configuration: Configuration

    @property
    @abstractmethod
    def name(self) -> str:
        """The model's own name."""

    @property
    @abstractmethod
    def engine(self) -> Engine:
        """The loaded model's engine."""

    @abstractmethod
    def prepared(self, generation: GenerationOptions) -> tuple[GenerationOptions, Certainty]:
        """The options to ask the engine with, and what a choice says of how sure the model is."""

    def call_options(self, options: Mapping[str, Any]) -> tuple[GenerationOptions, Certainty]:
        """As `prepared`, for the configured options with those of a call."""
        return self.prepared(override(self.configuration.generation, options))

    def chat(
        self, messages: Chat, model: str | None = None, **options: Any
    ) -> ChatCompletion | Iterator[ChatCompletionChunk]:
        """The next answer of a conversation.

        Args:
            messages: in OpenAI's form, with a role, and a text or a list of parts as content.
            model: one of this model's names.
            options: generation options, by OpenAI's or Hugging Face's names; `stream` returns an iterator of
                chunks.

        Raises:
            AdapterError: an invalid option or message, or no answer.
        """
        from openai.types.chat import ChatCompletion, ChatCompletionChunk

        call = self.chat_call(messages, model, options)
        if call.stream:
            chunks = responses.streamed(responses.ChatStream(call.head), self._chunks(call.requests))
            return (ChatCompletionChunk.model_validate(chunk) for chunk in chunks)
        answers = self._answers(call.requests)
        return ChatCompletion.model_validate(responses.chat_completion(call.head, answers))

    def chat_call(self, messages: Chat, model: str | None, options: Mapping[str, Any]) -> Call:
        """The requests of a call of `chat`.

        Raises:
            AdapterError: an invalid option or message.
        """
        name = self.named(model)
        call, values = split(options, {"n", "stream", "stream_options"})
        if values.get("top_logprobs") and not values.get("logprobs"):
            raise ConfigurationError("top_logprobs needs logprobs: true beside it")
        chosen, certainty = self.call_options(values)
        request = Request(messages_of(messages), chosen)
        head = Head(name, call.n, call.stream_options.include_usage, certainty)
        return Call(head, _repeated([request], call.n), call.stream)

    def text_completion(
        self, prompt: Prompt, model: str | None = None, **options: Any
    ) -> Completion | Iterator[Completion]:
        """Continues a text as it is, without a chat template.

        Args:
            prompt: a text, token ids, or a list of either.
            model: one of this model's names.
            options: generation options, by OpenAI's or Hugging Face's names; `stream` returns an iterator of
                chunks. `logprobs` is the number of likeliest tokens at each position; with `echo` it covers
                the prompt's tokens, too. With `suffix`, the text fills the gap between the prompt and it.

        Raises:
            AdapterError: an invalid option or prompt, or no answer.
            Unsupported: an `echo` that the backend cannot give.
        """
        from openai.types import Completion

        call = self.completion_call(prompt, model, options)
        if call.stream:
            stream = responses.CompletionStream(call.head)
            return map(_completion_chunk, responses.streamed(stream, self._chunks(call.requests)))
        # Before the answers are generated: the backend may refuse it.
        echoes = self.echoes(call)
        answers = self._answers(call.requests)
        return Completion.model_validate(responses.completion(call.head, answers, echoes))

    def completion_call(self, prompt: Prompt, model: str | None, options: Mapping[str, Any]) -> Call:
        """The requests of a call of `text_completion`.

        Raises:
            AdapterError: an invalid option or prompt.
        """
        name = self.named(model)
        call, values = split(options, {"n", "stream", "stream_options", "echo", "suffix"})
        if call.echo and call.stream:
            raise ConfigurationError("echo and stream: the prompt is known already; leave one of them out")
        if call.echo and call.suffix is not None:
            raise ConfigurationError("echo and suffix: the prompt is known already; leave one of them out")
        likeliest = values.pop("logprobs", False)
        if likeliest is not False:
            values |= {"logprobs": True, "top_logprobs": likeliest}
        chosen, certainty = self.call_options(values)
        check_plain_prompt(values)
        prompts = [Request((), chosen, one, call.suffix) for one in texts_of(prompt)]
        head = Head(name, call.n, call.stream_options.include_usage, certainty)
        return Call(head, _repeated(prompts, call.n), call.stream, call.echo)

    def echoes(self, call: Call) -> list[Echo]:
        """The prompts that the texts of a call begin with; none where it has no `echo`.

        Raises:
            AdapterError: a prompt that cannot be read.
            Unsupported: an `echo` that the backend cannot give.
        """
        return [self._echo(request) for request in call.requests[:: call.head.n]] if call.echo else []

    def embeddings(
        self,
        input: Prompt,
        model: str | None = None,
        kind: str | None = None,
        encoding_format: str | None = None,
        **options: Any,
    ) -> CreateEmbeddingResponse:
        """The embeddings of texts.

        Args:
            input: a text, its token ids, or a list of either.
            model: one of this model's names.
            kind: "query" or "document", for a model with different prompts for them.
            encoding_format: only "float", in which they are.
            options: embedding options.

        Raises:
            AdapterError: an invalid option or input, or no embeddings.
        """
        from openai.types import CreateEmbeddingResponse

        name = self.named(model)
        if encoding_format not in (None, "float"):
            raise Unsupported(f"encoding_format {encoding_format!r} is for HTTP; from Python leave it out")
        vectors, tokens = self.embedded(input, kind, {k: v for k, v in options.items() if k not in IGNORED})
        return CreateEmbeddingResponse.model_validate(responses.embeddings(name, vectors.tolist(), tokens))

    def embedded(self, input: Prompt, kind: str | None, options: Mapping[str, Any]) -> tuple[np.ndarray, int]:
        """The embeddings of texts, float32 (texts, dim), and how many tokens were read; 0 if unknown.

        Raises:
            AdapterError: an invalid option or input, or no embeddings.
        """
        [found] = self.embedded_together([inputs_of(input)], kind, options)
        return found

    def embedded_together(
        self, inputs: Sequence[Texts], kind: str | None, options: Mapping[str, Any]
    ) -> list[tuple[np.ndarray, int]]:
        """As `embedded`, for several inputs, all of texts or all of token ids, in one batch."""
        engine = self.engine
        chosen = override(self.configuration.embedding, options)
        # A server does not say how many tokens it has read.
        counted = "token_ids" in engine.supports
        lists: list[Any] = list(inputs)
        if counted and isinstance(lists[0][0], str):
            lists, kind = [engine.token_ids(texts, chosen, kind) for texts in lists], None
        vectors = engine.embed([text for texts in lists for text in texts], chosen, kind)
        ends = list(accumulate(map(len, lists)))
        return [
            (vectors[end - len(texts) : end], sum(map(len, texts)) if counted else 0)
            for texts, end in zip(lists, ends, strict=True)
        ]

    def _answers(self, requests: Sequence[Request]) -> list[Answer]:
        """An answer for each request.

        Raises:
            AdapterError: the first error of an answer.
        """
        return [successful(answer) for answer in self.engine.generate(requests)]

    def _chunks(self, requests: Sequence[Request]) -> Iterator[Chunk]:
        """The chunks of all answers; raises the first error of an answer."""
        for chunk in self.engine.stream(requests):
            if chunk.answer is not None:
                successful(chunk.answer)
            yield chunk

    def _echo(self, request: Request) -> Echo:
        if request.options.logprobs:
            return self.engine.prompt_tokens(request)
        return self.engine.prompt_text(request)

    @property
    def public_names(self) -> list[str]:
        """The names that clients may call the model by, its own first."""
        return [self.name, *self.model_deploys, *self.configuration.adapter.model_deploys]

    def named(self, model: str | None) -> str:
        """A name that a caller gives the model; its own by default.

        Raises:
            UnknownModel: the model has no such name.
        """
        names = self.public_names
        if self.configuration.load is not None:
            names.append(self.configuration.load.model_name)
        if model is None or str(model).casefold() in map(str.casefold, names):
            return model or self.name
        raise UnknownModel(
            f"this model is not called {model!r}: its names are {', '.join(names)}; the option "
            "model_deploys gives it others"
        )


def _repeated(requests: Sequence[Request], n: int) -> list[Request]:
    """Each request n times. Of a seeded request, each copy has another seed, so that the answers differ.

    Raises:
        ConfigurationError: the answers would not differ.
    """
    if n > 1 and any(request.options.labels for request in requests):
        raise ConfigurationError(f"n is {n}, but a label is chosen, not sampled: leave n or labels out")
    if n > 1 and not all(request.options.sampled for request in requests):
        raise ConfigurationError(
            f"n is {n}, but greedy answers are all the same: set temperature, or leave n out"
        )
    return [_reseeded(request, i) for request in requests for i in range(n)]


def _reseeded(request: Request, i: int) -> Request:
    if request.options.seed is None:
        return request
    return replace(request, options=override(request.options, {"seed": request.options.seed + i}))


def successful(answer: Answer) -> Answer:
    """The answer itself; raises its error, if it has one."""
    if answer.error is not None:
        raise answer.error
    return answer


def _completion_chunk(chunk: dict[str, Any]) -> Completion:
    from openai.types import Completion, CompletionChoice

    # Not validated: the official type requires a finish reason in every chunk.
    choices = [CompletionChoice.construct(**choice) for choice in chunk["choices"]]
    return Completion.model_validate(chunk | {"choices": choices})
