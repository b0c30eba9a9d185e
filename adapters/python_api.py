"""The Python API of a loaded model, besides prompt items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adapters.openai_api.requests import Chat, OpenAICalls, messages_of
from engine.configuration import override
from engine.errors import ConfigurationError, Unsupported
from engine.types import Answer, Request

if TYPE_CHECKING:
    import numpy as np

    from engine.classification import Classification
    from engine.contract import Classified, Reduction
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
    ) -> Scores | list[Scores] | np.ndarray | list[np.ndarray]:
        """The log-probabilities of candidates as the continuation of each prompt.

        A model with a classification head (a reranker, a reward model) scores the pair of prompt and
        candidate instead: float32 (candidates,), or (candidates, labels) for one with several labels, by the
        activation of its folder, as `CrossEncoder.predict`. Without candidates, it gives the logits of each
        prompt, float32 (prompts, labels).

        Returns:
            `Scores` for a prompt that is a text, a list of them for several prompts. Without candidates, the
            logits of the token after each prompt, float32 (prompts, vocabulary).

        Raises:
            ConfigurationError: an invalid option.
            PromptError, GenerationError: a text that a model with a classification head cannot read.
            Unsupported: the backend cannot score.
        """
        listed = [prompts] if isinstance(prompts, str) else prompts
        if self.classifies:
            if candidates is None:
                import numpy as np

                found = successful_all(self.classify(listed, **options))
                return np.array([one.logits for one in found], np.float32)
            rows = [_scores(self.pair_scores(prompt, candidates, **options)) for prompt in listed]
            return rows[0] if isinstance(prompts, str) else rows
        asked = [self._scored(prompt, options) for prompt in listed]
        if candidates is None:
            return self.engine.next_logits(asked)
        scores = self.engine.score(asked, [candidates] * len(asked))
        return scores[0] if isinstance(prompts, str) else scores

    def rank(self, prompt: str | Chat, candidates: Sequence[str], **options: Any) -> list[tuple[str, float]]:
        """The candidates with their probabilities, which sum to 1; the likeliest comes first.

        A reranker or reward model gives each candidate its score (see `score`) instead of a probability.

        Raises:
            AdapterError: a prompt or a candidate that cannot be scored, or an invalid option.
            Unsupported: the model has several labels, and no order of texts.
        """
        if self.classifies:
            found = self.pair_scores(prompt, candidates, **options)
            scored = [(text, relevance(one)) for text, one in zip(candidates, found, strict=True)]
            return sorted(scored, key=lambda pair: -pair[1])
        [scores] = self.engine.score([self._scored(prompt, options)], [candidates])
        if scores.error is not None:
            raise scores.error
        pairs = zip(candidates, (score.probability for score in scores.candidates), strict=True)
        return sorted(pairs, key=lambda pair: -pair[1])

    @property
    def classifies(self) -> bool:
        """Whether the model has a classification head, instead of one that writes text."""
        return "classify" in self.engine.supports

    def classify(self, texts: Sequence[str | tuple[str, str] | Chat], **options: Any) -> list[Classification]:
        """What the classification head says of each text, pair of texts or conversation.

        Returns:
            For each its logits, scores and the probabilities of its labels; a failed one carries its error.

        Raises:
            ConfigurationError: an invalid option.
            PromptError: messages that are not in OpenAI's form.
            Unsupported: the model has no classification head.
        """
        return self.engine.classify([self._classified(text, options) for text in texts])

    def pair_scores(
        self, prompt: str | Chat, candidates: Sequence[str], **options: Any
    ) -> list[Classification]:
        """What the classification head says of the pair of a prompt and each candidate.

        A candidate is the answer to a conversation; to a text it is the second text of a pair.

        Raises:
            AdapterError: the first error of a pair, or an invalid option.
        """
        if isinstance(prompt, str):
            return successful_all(self.classify([(prompt, text) for text in candidates], **options))
        answered = [[*prompt, {"role": "assistant", "content": text}] for text in candidates]
        return successful_all(self.classify(answered, **options))

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

    def _classified(self, text: str | tuple[str, str] | Chat, options: Mapping[str, Any]) -> Classified:
        match text:
            case str():
                return self._request(text, options)
            case (str(first), str(second)):
                self.call_options(options)  # Of a pair, no option is read: it is still checked.
                return first, second
        return self._request(text, options)

    def _scored(self, prompt: str | Chat, options: Mapping[str, Any]) -> Request | str:
        return prompt if isinstance(prompt, str) else self._request(prompt, options)


def relevance(found: Classification) -> float:
    """The score of a pair, of a head that gives one.

    Raises:
        Unsupported: it has several labels.
    """
    if len(found.scores) > 1:
        raise Unsupported(
            f"this model has {len(found.scores)} labels, and no order of texts: ask score or classify, which "
            "give the numbers of each"
        )
    return found.scores[0]


def successful_all(found: list[Classification]) -> list[Classification]:
    """The results themselves; raises the first error of one, with its index."""
    for i, one in enumerate(found):
        if one.error is not None:
            raise type(one.error)(f"text {i}: {one.error}")
    return found


def _scores(found: list[Classification]) -> np.ndarray:
    import numpy as np

    scores = np.array([one.scores for one in found], np.float32)
    return scores[:, 0] if found and scores.shape[1] == 1 else scores
