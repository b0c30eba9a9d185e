"""Answers → the official `openai` package's own objects."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from engine.types import Answer, Request, Token

if TYPE_CHECKING:
    from openai.types import Completion
    from openai.types.chat import ChatCompletion, ChatCompletionChunk


@dataclass(frozen=True, slots=True)
class Run:
    """Requests that one response answers.

    Attributes:
        engine: what answers.
        name: the model's name in the response.
        requests: `n` for each prompt, one behind the other.
        include_usage: whether a stream ends with the tokens that it took.
    """

    engine: Any
    name: str
    requests: Sequence[Request]
    n: int
    include_usage: bool = False

    def head(self, kind: str) -> dict[str, Any]:
        """What every response begins with."""
        return {
            "id": f"{kind.partition('.')[0]}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": self.name,
            "object": kind,
        }

    def answers(self) -> list[Answer]:
        """An answer for each request; raises the first error that there is."""
        return [_right(answer) for answer in self.engine.generate(self.requests)]

    def pieces(self) -> Iterator[tuple[int, str, Answer | None]]:
        """What each answer grows by, with its last piece the whole answer; raises as `answers`."""
        for chunk in self.engine.stream(self.requests):
            yield chunk.index, chunk.text, chunk.answer and _right(chunk.answer)

    def usage(self, answers: Sequence[Answer]) -> dict[str, int]:
        """Tokens read, each prompt once, and written."""
        read = sum(answer.usage.prompt_tokens for answer in answers[:: self.n])
        written = sum(answer.usage.completion_tokens for answer in answers)
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def chat_completion(run: Run) -> ChatCompletion:
    """All answers at once."""
    from openai.types.chat import ChatCompletion

    answers = run.answers()
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
        run.head("chat.completion") | {"choices": choices, "usage": run.usage(answers)}
    )


def chat_chunks(run: Run) -> Iterator[ChatCompletionChunk]:
    """Piece by piece; the last one of an answer has its reason to end, and its log-probabilities."""
    from openai.types.chat import ChatCompletionChunk

    head, answers = run.head("chat.completion.chunk"), dict[int, Answer]()
    for index in range(len(run.requests)):
        choice: dict[str, Any] = {"index": index, "delta": {"role": "assistant", "content": ""}}
        yield ChatCompletionChunk.model_validate(head | {"choices": [choice]})
    for index, text, answer in run.pieces():
        choice = {"index": index, "delta": {"content": text}}
        if answer is not None:
            answers[index] = answer
            choice |= {"finish_reason": answer.finish_reason, "logprobs": _chat_logprobs(answer)}
        yield ChatCompletionChunk.model_validate(head | {"choices": [choice]})
    if run.include_usage:
        usage = run.usage([answers[index] for index in sorted(answers)])
        yield ChatCompletionChunk.model_validate(head | {"choices": [], "usage": usage})


def completion(run: Run, echo: bool) -> Completion:
    """All texts at once, with their prompts before them where they are echoed."""
    from openai.types import Completion

    answers = run.answers()
    choices = []
    for i, (request, answer) in enumerate(zip(run.requests, answers, strict=True)):
        before, text = (), ""
        if echo and answer.tokens is not None:
            before = run.engine.prompt_tokens(request)
            text = "".join(token.text for token in before)
        elif echo:
            text = run.engine.prompt_text(request)
        choices.append(
            {
                "index": i,
                "finish_reason": answer.finish_reason,
                "text": text + answer.text,
                "logprobs": _completion_logprobs([*before, *(answer.tokens or ())], answer),
            }
        )
    return Completion.model_validate(
        run.head("text_completion") | {"choices": choices, "usage": run.usage(answers)}
    )


def completion_chunks(run: Run) -> Iterator[Completion]:
    """Piece by piece, as `chat_chunks`."""
    from openai.types import Completion, CompletionChoice

    head, answers = run.head("text_completion"), dict[int, Answer]()
    for index, text, answer in run.pieces():
        choice: dict[str, Any] = {"index": index, "text": text, "finish_reason": None}
        if answer is not None:
            answers[index] = answer
            logprobs = _completion_logprobs(answer.tokens or (), answer)
            choice |= {"finish_reason": answer.finish_reason, "logprobs": logprobs}
        # Not validated: the official type asks each piece why it is the last.
        yield Completion.model_validate(head | {"choices": [CompletionChoice.construct(**choice)]})
    if run.include_usage:
        usage = run.usage([answers[index] for index in sorted(answers)])
        yield Completion.model_validate(head | {"choices": [], "usage": usage})


def _right(answer: Answer) -> Answer:
    if answer.error is not None:
        raise answer.error
    return answer


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
