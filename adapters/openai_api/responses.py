"""Answers and embeddings in the types of the official `openai` package."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from engine.types import Answer, Chunk, Token

if TYPE_CHECKING:
    import numpy as np
    from openai.types import Completion, CreateEmbeddingResponse
    from openai.types.chat import ChatCompletion, ChatCompletionChunk


# A prompt before its answer: its tokens with their log-probabilities, or its text.
Echo = tuple[Token, ...] | str


@dataclass(frozen=True, slots=True)
class Head:
    """What a response says besides the answers.

    Attributes:
        model: the model's name.
        n: answers for each prompt; those of one prompt come one after another.
        include_usage: whether a stream ends with the token counts.
    """

    model: str
    n: int
    include_usage: bool = False

    def fields(self, kind: str) -> dict[str, Any]:
        """The first fields of a response."""
        return {
            "id": f"{kind.partition('.')[0]}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": self.model,
            "object": kind,
        }

    def usage(self, answers: Sequence[Answer]) -> dict[str, int]:
        """Token counts; each prompt counts once."""
        read = sum(answer.usage.prompt_tokens for answer in answers[:: self.n])
        written = sum(answer.usage.completion_tokens for answer in answers)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def chat_completion(head: Head, answers: Sequence[Answer]) -> ChatCompletion:
    """A response with all answers."""
    from openai.types.chat import ChatCompletion

    choices = [
        {
            "index": i,
            "finish_reason": answer.finish_reason,
            "message": {"role": "assistant", "content": answer.text},
            "logprobs": _chat_logprobs(answer),
        }
        for i, answer in enumerate(answers)
    ]
    return ChatCompletion.model_validate(
        head.fields("chat.completion") | {"choices": choices, "usage": head.usage(answers)}
    )


def chat_chunks(head: Head, chunks: Iterable[Chunk]) -> Iterator[ChatCompletionChunk]:
    """A stream of `n` answers. The last chunk of an answer has its finish reason and log-probabilities."""
    from openai.types.chat import ChatCompletionChunk

    fields, answers = head.fields("chat.completion.chunk"), dict[int, Answer]()
    for index in range(head.n):
        choice: dict[str, Any] = {"index": index, "delta": {"role": "assistant", "content": ""}}
        yield ChatCompletionChunk.model_validate(fields | {"choices": [choice]})
    for chunk in chunks:
        choice = {"index": chunk.index, "delta": {"content": chunk.text}}
        if (answer := chunk.answer) is not None:
            answers[chunk.index] = answer
            choice |= {"finish_reason": answer.finish_reason, "logprobs": _chat_logprobs(answer)}
        yield ChatCompletionChunk.model_validate(fields | {"choices": [choice]})
    if head.include_usage:
        usage = head.usage([answers[index] for index in sorted(answers)])
        yield ChatCompletionChunk.model_validate(fields | {"choices": [], "usage": usage})


def completion(head: Head, answers: Sequence[Answer], echoes: Sequence[Echo]) -> Completion:
    """A response with all texts.

    Args:
        echoes: the prompts, to put before their texts; empty for none.
    """
    from openai.types import Completion

    choices = []
    for i, answer in enumerate(answers):
        echo = echoes[i // head.n] if echoes else ""
        before = () if isinstance(echo, str) else echo
        text = echo if isinstance(echo, str) else "".join(token.text for token in echo)
        choices.append(
            {
                "index": i,
                "finish_reason": answer.finish_reason,
                "text": text + answer.text,
                "logprobs": _completion_logprobs([*before, *(answer.tokens or ())], answer),
            }
        )
    return Completion.model_validate(
        head.fields("text_completion") | {"choices": choices, "usage": head.usage(answers)}
    )


def completion_chunks(head: Head, chunks: Iterable[Chunk]) -> Iterator[Completion]:
    """A stream of texts. The last chunk of a text has its finish reason and log-probabilities."""
    from openai.types import Completion, CompletionChoice

    fields, answers = head.fields("text_completion"), dict[int, Answer]()
    for chunk in chunks:
        choice: dict[str, Any] = {"index": chunk.index, "text": chunk.text, "finish_reason": None}
        if (answer := chunk.answer) is not None:
            answers[chunk.index] = answer
            logprobs = _completion_logprobs(answer.tokens or (), answer)
            choice |= {"finish_reason": answer.finish_reason, "logprobs": logprobs}
        # Not validated: the official type requires a finish reason in every chunk.
        yield Completion.model_validate(fields | {"choices": [CompletionChoice.construct(**choice)]})
    if head.include_usage:
        usage = head.usage([answers[index] for index in sorted(answers)])
        yield Completion.model_validate(fields | {"choices": [], "usage": usage})


def embeddings(model: str, vectors: np.ndarray, tokens: int) -> CreateEmbeddingResponse:
    """A response with the rows of `vectors`.

    Args:
        tokens: how many were read; 0 if unknown.
    """
    from openai.types import CreateEmbeddingResponse

    data = [
        {"object": "embedding", "index": i, "embedding": vector.tolist()} for i, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return CreateEmbeddingResponse.model_validate(
        {"object": "list", "model": model, "data": data, "usage": usage}
    )


def _chat_logprobs(answer: Answer) -> dict[str, Any] | None:
    if answer.tokens is None:
        return None
    return {"content": [_chat_token(token) for token in answer.tokens], "refusal": None}


def _chat_token(token: Token) -> dict[str, Any]:
    def entry(text: str, logprob: float) -> dict[str, Any]:
        return {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8", "replace"))}

    top = [entry(*other) for other in token.top]
    return entry(token.text, token.logprob) | {"top_logprobs": top}


def _completion_logprobs(tokens: Sequence[Token], answer: Answer) -> dict[str, Any] | None:
    if answer.tokens is None:
        return None
    starts = accumulate((len(token.text) for token in tokens), initial=0)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [dict(token.top) for token in tokens],
        "text_offset": list(starts)[:-1],
    }
