"""The Python API of a loaded model, besides prompt items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adapters.openai_api.requests import Chat, OpenAICalls, messages_of
from engine.configuration import override
from engine.errors import ConfigurationError
from engine.types import Answer, Request

if TYPE_CHECKING:
    import numpy as np

    from engine.contract import Reduction
    from engine.scoring import Scores


class PythonAPI(OpenAICalls):
    """The methods that `HuggingAdapter` has besides those for prompt items.

    A prompt that is a text is continued as it is; one that is a list of messages is answered as a chat.
    """

    def generate(self, prompts: Sequence[str | Chat], **options: Any) -> list[Answer]:
        """An answer for each prompt, in their order; a failed one carries its error.

        Raises:
            ConfigurationError: an invalid option.
            PromptError: messages that are not in OpenAI's form.
        """
        return self.engine.generate([self._request(prompt, options) for prompt in prompts])

    def score(
        self, prompts: str | Sequence[str | Chat], candidates: Sequence[str] | None = None, **options: Any
    ) -> Scores | list[Scores] | np.ndarray:
        """The log-probabilities of candidates as the continuation of each prompt.

        Returns:
            `Scores` for a prompt that is a text, a list of them for several prompts. Without candidates, the
            logits of the token after each prompt, float32 (prompts, vocabulary).

        Raises:
            ConfigurationError: an invalid option.
            Unsupported: the backend cannot score.
        """
        listed = [prompts] if isinstance(prompts, str) else prompts
        asked = [self._scored(prompt, options) for prompt in listed]
        if candidates is None:
            return self.engine.next_logits(asked)
        scores = self.engine.score(asked, [candidates] * len(asked))
        return scores[0] if isinstance(prompts, str) else scores

    def rank(self, prompt: str | Chat, candidates: Sequence[str], **options: Any) -> list[tuple[str, float]]:
        """The candidates with their probabilities, which sum to 1; the likeliest comes first.

        Raises:
            AdapterError: a prompt or a candidate that cannot be scored, or an invalid option.
        """
        [scores] = self.engine.score([self._scored(prompt, options)], [candidates])
        if scores.error is not None:
            raise scores.error
        pairs = zip(candidates, (score.probability for score in scores.candidates), strict=True)
        return sorted(pairs, key=lambda pair: -pair[1])

    def encode(self, texts: Sequence[str], kind: str | None = None, **options: Any) -> np.ndarray:
        """An embedding of each text, float32 (texts, dim).

        Raises:
            ConfigurationError: an unknown option or `kind`.
            Unsupported: the backend cannot embed.
        """
        return self.engine.embed(texts, override(self.configuration.embedding, options), kind)

    def hidden_states(
        self, texts: Sequence[str], layer: int = -1, reduction: Reduction | None = "mean"
    ) -> np.ndarray | list[np.ndarray]:
        """The hidden states of a layer for each text.

        Returns:
            float32 (texts, dim); without a reduction a list of (tokens, dim), one for each text.

        Raises:
            ConfigurationError: a layer that the model does not have.
            Unsupported: the backend has no hidden states.
        """
        return self.engine.hidden_states(texts, layer, reduction)

    def _request(self, prompt: str | Chat, options: Mapping[str, Any]) -> Request:
        if options.get("n") not in (None, 1):
            raise ConfigurationError("n: each prompt has one answer here; call chat or text_completion for n")
        chosen, _ = self.call_options(options)
        if isinstance(prompt, str):
            return Request((), chosen, prompt)
        return Request(messages_of(prompt), chosen)

    def _scored(self, prompt: str | Chat, options: Mapping[str, Any]) -> Request | str:
        return prompt if isinstance(prompt, str) else self._request(prompt, options)
