"""Answers and embeddings as the objects of OpenAI's API, as plain JSON values."""

from __future__ import annotations

import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, ClassVar

from engine.types import Answer, Chunk, Token

# A prompt before its answer: its tokens with their log-probabilities, or its text.
Echo = tuple[Token, ...] | str
# JSON has no infinity: OpenAI's API writes the log-probability of an impossible token as this.
IMPOSSIBLE = -9999.0


# Gives what a choice says of how sure the model is of its answer.
Certainty = Callable[[Answer], dict[str, Any]]


def raw_certainty(answer: Answer) -> dict[str, Any]:
    """The confidence of an answer, as the engine has computed it, if it is known."""
    return {} if answer.confidence is None else {"confidence": answer.confidence}


def with_certainty(answer: Answer, certainty: Certainty) -> Answer:
    """The answer with the confidence that is stated of it."""
    return replace(answer, confidence=certainty(answer).get("confidence"))


@dataclass(frozen=True, slots=True)
class Head:
    """What a response says besides the answers.

    Attributes:
        model: the model's name.
        n: answers for each prompt; those of one prompt come one after another.
        include_usage: whether a stream ends with the token counts.
        certainty: gives the fields of a choice that say how sure the model is; they are not OpenAI's.
    """

    model: str
    n: int
    include_usage: bool = False
    certainty: Certainty = raw_certainty

    def fields(self, kind: str) -> dict[str, Any]:
        """The first fields of a response."""
        return {
            "id": f"{kind.partition('.')[0]}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": self.model,
            "object": kind,
        }

    def facts(self, answer: Answer) -> dict[str, Any]:
        """The fields of a choice whose answer is whole."""
        return {"finish_reason": answer.finish_reason} | self.certainty(answer)

    def usage(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """Token counts; each prompt counts once."""
        prompts = answers[:: self.n]
        read = sum(answer.usage.prompt_tokens for answer in prompts)
        cached = sum(answer.usage.cached_tokens for answer in prompts)
        written = sum(answer.usage.completion_tokens for answer in answers)
        thought = sum(answer.usage.reasoning_tokens for answer in answers)
        return {
            "prompt_tokens": read,
            "completion_tokens": written,
            "total_tokens": read + written,
            "prompt_tokens_details": {"cached_tokens": cached},
            "completion_tokens_details": {"reasoning_tokens": thought},
        }


class Stream(ABC):
    """The events of a streamed response."""

    @abstractmethod
    def first(self) -> list[dict[str, Any]]:
        """What comes before the first chunk."""

    @abstractmethod
    def events(self, chunk: Chunk) -> list[dict[str, Any]]:
        """The events of a chunk; that of an answer without an error where it has one."""

    @abstractmethod
    def last(self) -> list[dict[str, Any]]:
        """What comes after the last chunk of all answers."""


def streamed(stream: Stream, chunks: Iterable[Chunk]) -> Iterator[dict[str, Any]]:
    """The events of all chunks."""
    yield from stream.first()
    for chunk in chunks:
        yield from stream.events(chunk)
    yield from stream.last()


class ChunkStream(Stream):
    """A stream whose events are chunks of choices; the last of a choice has its finish reason."""

    kind: ClassVar[str]

    def __init__(self, head: Head) -> None:
        self._head = head
        self._fields = head.fields(self.kind)
        self._answers: dict[int, Answer] = {}

    def first(self) -> list[dict[str, Any]]:
        """Nothing."""
        return []

    def events(self, chunk: Chunk) -> list[dict[str, Any]]:
        """A chunk with one choice."""
        choice = self._delta(chunk) | {"index": chunk.index, "finish_reason": None, "logprobs": None}
        if (answer := chunk.answer) is not None:
            self._answers[chunk.index] = answer
            choice |= self._head.facts(answer) | {"logprobs": self._logprobs(answer)}
        return [self._fields | {"choices": [choice]}]

    def last(self) -> list[dict[str, Any]]:
        """A chunk with the token counts, where they are asked for."""
        if not self._head.include_usage:
            return []
        usage = self._head.usage([self._answers[index] for index in sorted(self._answers)])
        return [self._fields | {"choices": [], "usage": usage}]

    @abstractmethod
    def _delta(self, chunk: Chunk) -> dict[str, Any]: ...

    @abstractmethod
    def _logprobs(self, answer: Answer) -> dict[str, Any] | None: ...


class ChatStream(ChunkStream):
    """A stream of `n` answers. The last chunk of an answer has its log-probabilities and reasoning, too."""

    kind = "chat.completion.chunk"

    def first(self) -> list[dict[str, Any]]:
        """A chunk with the role for each answer."""
        delta = {"role": "assistant", "content": ""}
        choice = {"delta": delta, "finish_reason": None, "logprobs": None}
        return [self._fields | {"choices": [{"index": i} | choice]} for i in range(self._head.n)]

    def _delta(self, chunk: Chunk) -> dict[str, Any]:
        return {"delta": {"content": chunk.text} | _reasoning(chunk.answer)}

    def _logprobs(self, answer: Answer) -> dict[str, Any] | None:
        return _chat_logprobs(answer)


class CompletionStream(ChunkStream):
    """A stream of texts. The last chunk of a text has its log-probabilities, too."""

    kind = "text_completion"

    def _delta(self, chunk: Chunk) -> dict[str, Any]:
        return {"text": chunk.text}

    def _logprobs(self, answer: Answer) -> dict[str, Any] | None:
        return _completion_logprobs(answer.tokens or (), answer)


def chat_completion(head: Head, answers: Sequence[Answer]) -> dict[str, Any]:
    """A response with all answers: a `ChatCompletion`."""
    choices = [
        {
            "index": i,
            "message": {"role": "assistant", "content": answer.text, "refusal": None} | _reasoning(answer),
            "logprobs": _chat_logprobs(answer),
        }
        | head.facts(answer)
        for i, answer in enumerate(answers)
    ]
    return head.fields("chat.completion") | {"choices": choices, "usage": head.usage(answers)}


def completion(head: Head, answers: Sequence[Answer], echoes: Sequence[Echo]) -> dict[str, Any]:
    """A response with all texts: a `Completion`.

    Args:
        echoes: the prompts, to put before their texts; empty for none.
    """
    choices = []
    for i, answer in enumerate(answers):
        echo = echoes[i // head.n] if echoes else ""
        before = () if isinstance(echo, str) else echo
        text = echo if isinstance(echo, str) else "".join(token.text for token in echo)
        logprobs = _completion_logprobs([*before, *(answer.tokens or ())], answer)
        choices.append({"index": i, "text": text + answer.text, "logprobs": logprobs} | head.facts(answer))
    return head.fields("text_completion") | {"choices": choices, "usage": head.usage(answers)}


def embeddings(model: str, vectors: Sequence[list[float] | str], tokens: int) -> dict[str, Any]:
    """A response with vectors: a `CreateEmbeddingResponse`.

    Args:
        vectors: as lists of numbers, or encoded as texts.
        tokens: how many were read; 0 if unknown.
    """
    data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "model": model, "data": data, "usage": usage}


def chat_token(token: Token) -> dict[str, Any]:
    """A token with its log-probability and its alternatives."""

    def entry(text: str, logprob: float) -> dict[str, Any]:
        likelihood = max(logprob, IMPOSSIBLE)
        return {"token": text, "logprob": likelihood, "bytes": list(text.encode("utf-8", "replace"))}

    return entry(token.text, token.logprob) | {"top_logprobs": [entry(*other) for other in token.top]}


def _reasoning(answer: Answer | None) -> dict[str, Any]:
    """The field in which servers give the reasoning; it is not OpenAI's."""
    if answer is None or answer.reasoning is None:
        return {}
    return {"reasoning_content": answer.reasoning}


def _chat_logprobs(answer: Answer) -> dict[str, Any] | None:
    if answer.tokens is None:
        return None
    return {"content": [chat_token(token) for token in answer.tokens], "refusal": None}


def _completion_logprobs(tokens: Sequence[Token], answer: Answer) -> dict[str, Any] | None:
    if answer.tokens is None:
        return None
    starts = accumulate((len(token.text) for token in tokens), initial=0)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [max(token.logprob, IMPOSSIBLE) for token in tokens],
        "top_logprobs": [{text: max(logprob, IMPOSSIBLE) for text, logprob in token.top} for token in tokens],
        "text_offset": list(starts)[:-1],
    }
