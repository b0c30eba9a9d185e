"""The Python API of a loaded model, besides prompt items."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adapters.openai_api.parameters import RENDERING, check_plain_prompt
from adapters.openai_api.prompts import Chat, messages_of
from adapters.openai_api.requests import OpenAICalls, successful
from engine.configuration import canonical, override
from engine.errors import ConfigurationError, PromptError, Unsupported
from engine.types import Answer, Request

if TYPE_CHECKING:
    import numpy as np

    from engine.classification import Classification
    from engine.contract import Classified, Reduction
    from engine.options import GenerationOptions
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
        if options.get("n") not in (None, 1):
            raise ConfigurationError("n: each prompt has one answer here; call chat or text_completion for n")
        if options.get("stream"):
            raise ConfigurationError(
                "stream: answers come whole here; call chat or text_completion for a stream"
            )
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
    ) -> Scores | list[Scores] | np.ndarray | list[np.ndarray]:
        """The log-probabilities of candidates as the continuation of each prompt.

        A model with a classification head (a reranker, a reward model) scores the pair of prompt and
        candidate instead: float32 (candidates,), or (candidates, labels) for one with several labels, by the
        activation of its folder, as `CrossEncoder.predict`. Without candidates, it gives the logits of each
        prompt, float32 (prompts, labels).

        Args:
            prompts: texts or conversations; or pairs of a prompt and its only candidate.
            candidates: of every prompt.
            options: `system_prompt`, `chat_template` and `overflow`, for conversations.

        Returns:
            `Scores` for a prompt that is a text, a list of them for several prompts or pairs. Without
            candidates, the logits of the token after each prompt, float32 (prompts, vocabulary).

        Raises:
            ConfigurationError: an invalid option.
            PromptError, GenerationError: a text that a model with a classification head cannot read.
            Unsupported: the backend cannot score.
        """
        listed = _each(prompts)
        _check_candidates(candidates or ())
        if self.classifies:
            if candidates is None:
                import numpy as np

                found = successful_all(self.classify(listed, **options))
                return np.array([one.logits for one in found], np.float32)
            rows = [_scores(self.pair_scores(prompt, candidates, **options)) for prompt in listed]
            return rows[0] if isinstance(prompts, str) else rows
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

        A reranker or reward model gives each candidate its score (see `score`) instead of a probability.

        Raises:
            AdapterError: a prompt or a candidate that cannot be scored, or an invalid option.
            Unsupported: the model has several labels, and no order of texts.
        """
        if not (isinstance(prompt, str) or _is_chat(prompt)):
            raise PromptError("rank takes one prompt, a text or a list of messages: call it for each")
        _check_candidates(candidates)
        if self.classifies:
            found = self.pair_scores(prompt, candidates, **options)
            scored = [(text, relevance(one)) for text, one in zip(candidates, found, strict=True)]
            return sorted(scored, key=lambda pair: -pair[1])
        [scores] = self.engine.score(self._scored([prompt], options), [candidates])
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
        if not self.classifies:
            raise Unsupported(
                f"{self.name} has no classification head: generate(texts, labels=[...]) chooses labels"
            )
        listed = _each(texts)
        chosen = self._rendering(listed, options)

        def asked(text: Any) -> Classified:
            return text if _is_pair(text) else _request(text, chosen)

        return self.engine.classify([asked(text) for text in listed])

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
            PromptError: `texts` is no list of texts.
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
            PromptError: `texts` is no list of texts.
            Unsupported: the backend has no hidden states.
        """
        return self.engine.hidden_states(texts, layer, reduction)

    def _scored(self, prompts: Sequence[str | Chat], options: Mapping[str, Any]) -> list[Request | str]:
        chosen = self._rendering(prompts, options)
        return [prompt if isinstance(prompt, str) else _request(prompt, chosen) for prompt in prompts]

    def _rendering(self, prompts: Sequence[Any], options: Mapping[str, Any]) -> GenerationOptions:
        """The options by which conversations are read; those without an effect are refused."""
        given = canonical(options, RENDERING)
        if unread := given.keys() - RENDERING:
            raise ConfigurationError(f"option {min(unread)!r} changes no score: leave it out")
        if not any(map(_is_chat, prompts)):
            check_plain_prompt(options)
        chosen, _ = self.call_options(given)
        return chosen


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


def _listed(prompts: Prompt | Sequence[Prompt]) -> list[Any]:
    """The prompts, or the only one, in a list.

    Raises:
        PromptError: one of them cannot be a prompt.
    """
    one: Any = prompts
    whole = _is_chat(one) or (not _is_no_list(one) and one and all(isinstance(token, int) for token in one))
    return [one] if whole else _each(one)


def _each(prompts: Any) -> list[Any]:
    """As `_listed`, where one prompt that is no text has to be in a list."""
    listed = [prompts] if _is_no_list(prompts) else list(prompts)
    for i, prompt in enumerate(listed):
        if isinstance(prompt, Mapping) or not isinstance(prompt, Iterable):
            raise PromptError(
                f"prompt {i} is a {type(prompt).__name__}: give a text, a list of messages, or token ids"
            )
    return listed


def _check_candidates(candidates: Sequence[Any]) -> None:
    """Refuses a list of candidates for each prompt; token ids may be candidates, too."""
    nested = (one for one in candidates if isinstance(one, list | tuple))
    if any(isinstance(text, str) for one in nested for text in one):
        raise PromptError("candidates is one list of texts for all prompts: [text, text]")


def _is_no_list(given: Any) -> bool:
    return isinstance(given, str | Mapping) or not isinstance(given, Iterable)


def _is_chat(prompt: Any) -> bool:
    return not _is_no_list(prompt) and any(isinstance(message, Mapping) for message in prompt)


def _is_pair(given: Any) -> bool:
    return isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], str)


def _request(prompt: Any, options: Any) -> Request:
    if isinstance(prompt, str):
        return Request((), options, prompt)
    if prompt and all(isinstance(token, int) for token in prompt):
        return Request((), options, tuple(prompt))
    return Request(messages_of(prompt), options)
