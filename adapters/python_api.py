"""The Python API of a loaded model, besides prompt items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adapters.openai_api.requests import (
    RENDERING,
    Chat,
    OpenAICalls,
    check_plain_prompt,
    messages_of,
    successful,
)
from engine.configuration import canonical, override
from engine.errors import ConfigurationError
from engine.types import Answer, Request

if TYPE_CHECKING:
    import numpy as np

    from engine.contract import Reduction
    from engine.scoring import Scores

# A text, a conversation, or token ids.
Prompt = str | Chat | Sequence[int]


class PythonAPI(OpenAICalls):
    """The methods that `HuggingAdapter` has besides those for prompt items.

    A prompt that is a text, or token ids, is continued as it is; one that is a list of messages is answered
    as a chat.
    """

    def generate(
        self, prompts: Prompt | Sequence[Prompt], raise_errors: bool = False, **options: Any
    ) -> list[Answer]:
        """An answer for each prompt, in their order; one prompt gives a list of one answer.

        Args:
            prompts: one or several.
            raise_errors: whether the first failed answer raises its error. By default it has no text, and its
                `error` says why.

        Raises:
            ConfigurationError: an invalid option.
            PromptError: messages that are not in OpenAI's form.
            AdapterError: the error of an answer, with `raise_errors`.
        """
        chosen, _ = self.call_options(options)
        listed = _listed(prompts)
        if all(not _is_chat(prompt) for prompt in listed):
            check_plain_prompt(options)
        answers = self.engine.generate([_request(prompt, chosen) for prompt in listed])
        return [successful(answer) for answer in answers] if raise_errors else answers

    def score(
        self,
        prompts: str | Sequence[str | Chat] | Sequence[tuple[str | Chat, str]],
        candidates: Sequence[str] | None = None,
        **options: Any,
    ) -> Scores | list[Scores] | np.ndarray:
        """The log-probabilities of candidates as the continuation of each prompt.

        Args:
            prompts: texts or conversations; or pairs of a prompt and its only candidate.
            candidates: of every prompt.
            options: `system_prompt`, `chat_template` and `overflow`, for conversations.

        Returns:
            `Scores` for a prompt that is a text, a list of them for several prompts or pairs. Without
            candidates, the logits of the token after each prompt, float32 (prompts, vocabulary).

        Raises:
            ConfigurationError: an invalid option.
            Unsupported: the backend cannot score.
        """
        listed: list[Any] = [prompts] if isinstance(prompts, str) else list(prompts)
        if candidates is None and listed and all(map(_is_pair, listed)):
            listed, pairs = map(list, zip(*listed, strict=True))
            return self.engine.score(self._scored(listed, options), [[candidate] for candidate in pairs])
        asked = self._scored(listed, options)
        if candidates is None:
            return self.engine.next_logits(asked)
        scores = self.engine.score(asked, [candidates] * len(asked))
        return scores[0] if isinstance(prompts, str) else scores

    def rank(self, prompt: str | Chat, candidates: Sequence[str], **options: Any) -> list[tuple[str, float]]:
        """The candidates with their probabilities, which sum to 1; the likeliest comes first.

        Raises:
            AdapterError: a prompt or a candidate that cannot be scored, or an invalid option.
        """
        [scores] = self.engine.score(self._scored([prompt], options), [candidates])
        if scores.error is not None:
            raise scores.error
        pairs = zip(candidates, (score.probability for score in scores.candidates), strict=True)
        return sorted(pairs, key=lambda pair: -pair[1])

    def encode(self, texts: Sequence[str], kind: str | None = None, **options: Any) -> np.ndarray:
        """An embedding of each text, float32 (texts, dim).

        Raises:
            ConfigurationError: an unknown option or `kind`.
            TypeError: `texts` is a single text.
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
            ConfigurationError: a layer that the model does not have, or an unknown reduction.
            TypeError: `texts` is a single text.
            Unsupported: the backend has no hidden states.
        """
        return self.engine.hidden_states(texts, layer, reduction)

    def _scored(self, prompts: Sequence[str | Chat], options: Mapping[str, Any]) -> list[Request | str]:
        given = canonical(options)
        if unread := given.keys() - RENDERING:
            raise ConfigurationError(f"option {min(unread)!r} changes no score: leave it out")
        if all(isinstance(prompt, str) for prompt in prompts):
            check_plain_prompt(options)
        chosen, _ = self.call_options(given)
        return [prompt if isinstance(prompt, str) else _request(prompt, chosen) for prompt in prompts]


def _listed(prompts: Prompt | Sequence[Prompt]) -> list[Any]:
    one = isinstance(prompts, str) or (
        bool(prompts) and (_is_chat(prompts) or all(isinstance(token, int) for token in prompts))
    )
    return [prompts] if one else list(prompts)


def _is_chat(prompt: Any) -> bool:
    return not isinstance(prompt, str) and any(isinstance(message, Mapping) for message in prompt)


def _is_pair(given: Any) -> bool:
    return isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], str)


def _request(prompt: Any, options: Any) -> Request:
    if isinstance(prompt, str):
        return Request((), options, prompt)
    if prompt and all(isinstance(token, int) for token in prompt):
        return Request((), options, tuple(prompt))
    return Request(messages_of(prompt), options)
