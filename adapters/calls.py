"""What a loaded model does from Python, beside answering prompt items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from adapters.openai_api import requests
from adapters.openai_api.requests import Prompt, messages_of
from engine.configuration import Configuration, override
from engine.errors import ConfigurationError
from engine.types import Answer, Request

if TYPE_CHECKING:
    import numpy as np
    from openai.types import Completion, CreateEmbeddingResponse
    from openai.types.chat import ChatCompletion, ChatCompletionChunk

    from engine.scoring import Scores

# A conversation as OpenAI writes it: a role and a content each.
Chat = Sequence[Mapping[str, Any]]


class Calls:
    """The calls of `HuggingAdapter`.

    A prompt that is a text is gone on with as it is; one that is a list of messages is asked as a chat.

    Attributes:
        model_deploys: public names of the model besides its own; the configuration may add some.
    """

    model_deploys: ClassVar[Sequence[str]] = ()
    configuration: Configuration
    engine: Any
    name: str

    def chat(
        self, messages: Chat, model: str | None = None, **options: Any
    ) -> ChatCompletion | Iterator[ChatCompletionChunk]:
        """A conversation's next answer, in OpenAI's shape; needs the package `openai`.

        Args:
            messages: as OpenAI has them, a role and a content each.
            model: one of this model's names.
            options: OpenAI's or Hugging Face's; with `stream` the result is an iterator of chunks.

        Raises:
            AdapterError: an option or a message that cannot be, or no answer.
        """
        return requests.chat(
            self.engine, self._named(model), self.configuration.generation, messages, **options
        )

    def text_completion(
        self, prompt: Prompt, model: str | None = None, **options: Any
    ) -> Completion | Iterator[Completion]:
        """A text gone on with, in OpenAI's shape; needs the package `openai`.

        Args:
            prompt: a text, token ids, or a list of either.
            model, options: as `chat`; here `logprobs` is a number.

        Raises:
            AdapterError: as `chat`.
        """
        return requests.text_completion(
            self.engine, self._named(model), self.configuration.generation, prompt, **options
        )

    def embeddings(
        self, input: Prompt, model: str | None = None, kind: str | None = None, **options: Any
    ) -> CreateEmbeddingResponse:
        """The vectors of texts, in OpenAI's shape; needs the package `openai`.

        Args:
            input: a text, its token ids, or a list of either.
            model: as `chat`.
            kind: "query" or "document", where the model asks for other words before them.
            options: of embedding.

        Raises:
            AdapterError: an option or an input that cannot be.
        """
        return requests.embeddings(
            self.engine, self._named(model), self.configuration.embedding, input, kind, **options
        )

    def generate(self, prompts: Sequence[str | Chat], **options: Any) -> list[Answer]:
        """An answer for each prompt, in their order; one that fails carries its error."""
        return self.engine.generate([self._request(prompt, options) for prompt in prompts])

    def score(
        self, prompts: str | Sequence[str | Chat], candidates: Sequence[str] | None = None, **options: Any
    ) -> Scores | list[Scores] | np.ndarray:
        """The log-probabilities of candidates as what follows a prompt, or each of several prompts.

        Without candidates the logits of the next token, float32 (prompts, vocabulary).

        Raises:
            ConfigurationError: an option that cannot be.
        """
        listed = [prompts] if isinstance(prompts, str) else prompts
        asked = [self._scored(prompt, options) for prompt in listed]
        if candidates is None:
            return self.engine.next_logits(asked)
        scores = self.engine.score(asked, [candidates] * len(asked))
        return scores[0] if isinstance(prompts, str) else scores

    def rank(self, prompt: str | Chat, candidates: Sequence[str], **options: Any) -> list[tuple[str, float]]:
        """The candidates with their probabilities, which sum to 1, the likeliest first.

        Raises:
            AdapterError: a prompt or a candidate that cannot be scored, or an option that cannot be.
        """
        [scores] = self.engine.score([self._scored(prompt, options)], [candidates])
        if scores.error is not None:
            raise scores.error
        pairs = zip(candidates, (score.probability for score in scores.candidates), strict=True)
        return sorted(pairs, key=lambda pair: -pair[1])

    def encode(self, texts: Sequence[str], kind: str | None = None, **options: Any) -> np.ndarray:
        """A vector for each text, float32 (texts, dim).

        Raises:
            ConfigurationError: an option or a `kind` that there is not.
        """
        return self.engine.embed(texts, override(self.configuration.embedding, options), kind)

    def hidden_states(
        self, texts: Sequence[str], layer: int = -1, reduction: Literal["mean", "sum"] | None = "mean"
    ) -> np.ndarray | list[np.ndarray]:
        """What a layer makes of each text: float32 (texts, dim), or without a reduction (tokens, dim) each.

        Raises:
            ConfigurationError: a layer that the model does not have.
        """
        return self.engine.hidden_states(texts, layer, reduction)

    def _request(self, prompt: str | Chat, options: Mapping[str, Any]) -> Request:
        chosen = override(self.configuration.generation, options)
        if isinstance(prompt, str):
            return Request((), chosen, prompt)
        return Request(messages_of(prompt), chosen)

    def _scored(self, prompt: str | Chat, options: Mapping[str, Any]) -> Request | str:
        return prompt if isinstance(prompt, str) else self._request(prompt, options)

    def _named(self, model: str | None) -> str:
        """A name that a caller gives the model; its own by default."""
        names = [self.name, *self.model_deploys, *self.configuration.adapter.model_deploys]
        if self.configuration.load is not None:
            names.append(self.configuration.load.model_name)
        if model is None or model.casefold() in map(str.casefold, names):
            return model or self.name
        raise ConfigurationError(f"this model is not called {model!r}: its names are {', '.join(names)}")
