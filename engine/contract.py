"""The contract between the backends and their callers: `Engine`, all that an engine does.

Importing this imports neither torch nor numpy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

from engine.answer_cache import AnswerCache, Reused
from engine.errors import ConfigurationError, Unsupported
from engine.options import EmbeddingOptions
from engine.types import Answer, Chunk, Request, Token

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from engine.classification import Classification
    from engine.memory import MemoryUse
    from engine.scoring import Scores

# Callback: a request's index and its answer → the next request of the same conversation, or None.
Follow = Callable[[int, Answer], Request | None]
Reduction = Literal["mean", "sum"]
# A continuation to score: a text, or token ids, which are scored as they are.
Candidate = str | Sequence[int]
# What a classification head reads: a conversation, a text, or a pair of texts.
Classified = Request | str | tuple[str, str]
# The optional methods of an engine.
Capability = Literal[
    "score",
    "next_logits",
    "classify",
    "embed",
    "token_ids",
    "hidden_states",
    "prompt_text",
    "prompt_tokens",
    "save",
]
# Bytes of UTF-8 that are taken for one token where there is no tokenizer.
BYTES_PER_TOKEN = 3


class Engine(ABC):
    """Answers requests, and may score, embed and save.

    A backend implements `stream` and those of the optional methods (`Capability`) that it can.
    The others raise `Unsupported`.

    Attributes:
        cache: answers on disk, where `cache_in` was called.
    """

    cache: AnswerCache | None = None

    @cached_property
    def reused(self) -> Reused:
        """How many answers of all runs were not made anew."""
        return Reused()

    @property
    def supports(self) -> frozenset[Capability]:
        """The optional methods that this backend implements."""
        names: tuple[Capability, ...] = get_args(Capability)
        return frozenset(name for name in names if getattr(type(self), name) is not getattr(Engine, name))

    def unsupported(self, name: str) -> Unsupported:
        """The error of an optional method that this backend does not implement."""
        return Unsupported(f"{type(self).__name__} does not support {name}")

    @abstractmethod
    def stream(
        self, requests: Iterable[Request | None], follow: Follow | None = None, deltas: bool = True
    ) -> Iterator[Chunk]:
        """Answers requests as they come; the chunks of all answers are interleaved.

        Args:
            requests: taken whenever the engine has room for another. None means that the next request
                is not available yet: the engine continues with the others, and asks again.
            follow: callback for each answer, called before its last chunk is given. The request that it
                returns is answered next, under the same index.
            deltas: whether answers come in deltas; if False, each comes as one chunk.

        Yields:
            Chunks. The last one of an answer carries the `Answer`; a failed one carries its error and
            does not affect the others.
        """

    def generate(self, requests: Sequence[Request], follow: Follow | None = None) -> list[Answer]:
        """Answers requests.

        Args:
            follow: callback for each answer; the request that it returns is answered next. The answers
                to those requests go to `follow` only.

        Returns:
            One answer for each request, in their order. A failed one carries its error.
        """
        return gathered(self.stream(requests, follow, deltas=False), len(requests))

    def cache_in(self, folder: str | Path) -> None:
        """Keeps answers in a folder, and takes them from there.

        Raises:
            ConfigurationError: the folder cannot be used, or the backend does not know its weights.
        """
        raise ConfigurationError(f"option 'cache': {type(self).__name__} has no cache: leave it out")

    @property
    def context_length(self) -> int | None:
        """The most tokens of a sequence; None where it is unknown or unbounded."""
        return None

    @property
    def memory(self) -> MemoryUse | None:
        """What the model has taken of this machine's memory so far; None for a model that is elsewhere."""
        return None

    @property
    def revision(self) -> str | None:
        """The commit or revision of the weights on the hub; None where it is unknown."""
        return None

    def count_tokens(self, text: str) -> int:
        """The number of tokens of a text, without special tokens; without a tokenizer, an estimate."""
        return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)

    def score(
        self, prompts: Sequence[Request | str], candidates: Sequence[Sequence[Candidate]]
    ) -> list[Scores]:
        """The log-probability of each candidate as the continuation of its prompt.

        Args:
            prompts: conversations or plain prompts; the token ids of one are read as their text.
            candidates: for each prompt a list of at least one candidate.

        Returns:
            One for each prompt, in their order; a failed one carries its error.

        Raises:
            PromptError: the number of prompts is not the number of lists of candidates.
            Unsupported: the backend cannot score.
        """
        raise self.unsupported("score")

    def next_logits(self, prompts: Sequence[Request | str]) -> np.ndarray:
        """The logits of the token after each prompt.

        Returns:
            float32 (prompts, vocabulary).

        Raises:
            PromptError: a prompt that cannot be read.
            GenerationError: a prompt that the model fails on.
            Unsupported: the backend has no logits.
        """
        raise self.unsupported("next_logits")

    def classify(self, texts: Sequence[Classified]) -> list[Classification]:
        """What the model's classification head says of each text, pair of texts or conversation.

        Returns:
            One for each text, in their order; a failed one carries its error.

        Raises:
            Unsupported: the backend's model has no classification head.
        """
        raise self.unsupported("classify")

    def embed(
        self,
        texts: Sequence[str] | Sequence[Sequence[int]],
        options: EmbeddingOptions | None = None,
        kind: str | None = None,
    ) -> np.ndarray:
        """An embedding of each text.

        Args:
            texts: texts, or token ids, which are read as they are.
            kind: "query", "document" or another prompt of the model; None: its default.

        Returns:
            float32 (texts, dim).

        Raises:
            ConfigurationError: an unknown `kind`, or an option that the backend does not take.
            GenerationError: no embeddings; the text says why.
            Unsupported: the backend cannot embed, or takes no token ids.
        """
        raise self.unsupported("embed")

    def token_ids(
        self, texts: Sequence[str], options: EmbeddingOptions | None = None, kind: str | None = None
    ) -> list[list[int]]:
        """The token ids that `embed` reads of each text.

        Raises:
            ConfigurationError: an unknown `kind`.
            Unsupported: the backend has no tokenizer.
        """
        raise self.unsupported("token_ids")

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
            Unsupported: the backend has no hidden states.
        """
        raise self.unsupported("hidden_states")

    def prompt_text(self, request: Request) -> str:
        """The plain prompt of a request as text: its answer continues it.

        Raises:
            PromptError: it cannot be read.
            Unsupported: the backend cannot decode token ids.
        """
        raise self.unsupported("prompt_text")

    def prompt_tokens(self, request: Request) -> tuple[Token, ...]:
        """The tokens of a request's plain prompt with their log-probabilities, without the bos token.

        Raises:
            PromptError: it cannot be read, or the tokenizer has no bos token.
            Unsupported: the backend gives no log-probabilities of a prompt.
        """
        raise self.unsupported("prompt_tokens (an echo with logprobs)")

    def save(self, folder: str | Path) -> None:
        """Writes the model and its tokenizer to a folder.

        Raises:
            Unsupported: the backend does not have the weights.
        """
        raise self.unsupported("save")


def gathered(chunks: Iterable[Chunk], count: int) -> list[Answer]:
    """The first answer of each index from 0 to `count` - 1, from the chunks of `Engine.stream`."""
    answers: dict[int, Answer] = {}
    for chunk in chunks:
        if chunk.answer is not None:
            answers.setdefault(chunk.index, chunk.answer)
    return [answers[i] for i in range(count)]
