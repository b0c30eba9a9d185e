"""A model behind OpenAI's interface: what a call says → requests; the responses are the official types.

`HuggingAdapter.chat`, `.text_completion` and `.embeddings` are these functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from adapters.items.traces import ROLES
from adapters.openai_api import responses
from adapters.openai_api.responses import Run
from engine.configuration import ALIASES, checked, override, unknown
from engine.errors import ConfigurationError, PromptError, Unsupported
from engine.options import EmbeddingOptions, GenerationOptions
from engine.types import Image, Message, Part, Request

if TYPE_CHECKING:
    from openai.types import Completion, CreateEmbeddingResponse
    from openai.types.chat import ChatCompletion, ChatCompletionChunk

Prompt = str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]]


class _StreamOptions(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    include_usage: bool = False


class _Call(BaseModel):
    """What a call says beside how its tokens are chosen."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    n: int = Field(1, ge=1, le=128)
    stream: bool = False
    stream_options: _StreamOptions = _StreamOptions()
    response_format: dict[str, Any] | None = None
    suffix: str | None = None
    echo: bool = False


def chat(
    engine: Any, name: str, given: GenerationOptions, messages: Sequence[Mapping[str, Any]], **options: Any
) -> ChatCompletion | Iterator[ChatCompletionChunk]:
    """A conversation's next answer.

    Args:
        name: the model's name in the response.
        given: what the options change.
        messages: as OpenAI has them: a role, and as content a text or a list of parts.
        options: OpenAI's or ours; `stream` makes it an iterator of chunks.

    Raises:
        AdapterError: an option or a message that cannot be, or no answer.
    """
    call, values = _parted(options, {"n", "stream", "stream_options", "response_format"})
    if values.get("top_logprobs") and not values.get("logprobs"):
        raise ConfigurationError("top_logprobs needs logprobs: true beside it")
    request = Request(messages_of(messages), override(given, values))
    run = Run(engine, name, _repeated([request], call.n), call.n, call.stream_options.include_usage)
    return responses.chat_chunks(run) if call.stream else responses.chat_completion(run)


def text_completion(
    engine: Any, name: str, given: GenerationOptions, prompt: Prompt, **options: Any
) -> Completion | Iterator[Completion]:
    """A text gone on with, as it is: no chat template is put around it.

    Args:
        name, given: as `chat`.
        prompt: a text, token ids, or a list of either.
        options: as `chat`; `logprobs` is a number: so many of the likeliest tokens at each place. With
            `echo` it covers the prompt's tokens, too.

    Raises:
        AdapterError: as `chat`.
    """
    call, values = _parted(options, {"n", "stream", "stream_options", "echo", "suffix"})
    if call.echo and call.stream:
        raise ConfigurationError("echo and stream: the prompt is known already; leave one of them out")
    likeliest = values.pop("logprobs", False)
    if likeliest is not False:
        values |= {"logprobs": True, "top_logprobs": likeliest}
    chosen = override(given, values)
    requests = [Request((), chosen, one) for one in _prompts(prompt)]
    run = Run(engine, name, _repeated(requests, call.n), call.n, call.stream_options.include_usage)
    return responses.completion_chunks(run) if call.stream else responses.completion(run, call.echo)


def embeddings(
    engine: Any,
    name: str,
    given: EmbeddingOptions,
    input: Prompt,
    kind: str | None = None,
    **options: Any,
) -> CreateEmbeddingResponse:
    """The vectors of texts.

    Args:
        name, given: as `chat`.
        input: a text, its token ids, or a list of either.
        kind: "query" or "document", where the model asks for other words before them.
        options: of `EmbeddingOptions`.

    Raises:
        AdapterError: an option or an input that cannot be.
    """
    from openai.types import CreateEmbeddingResponse

    chosen = override(given, options)
    texts: Any = _prompts(input)
    # A server that embeds does not say how many tokens it has read.
    counted = hasattr(engine, "tokens")
    if counted and isinstance(texts[0], str):
        texts, kind = engine.tokens(texts, chosen, kind), None
    vectors = engine.embed(texts, chosen, kind)
    read = sum(map(len, texts)) if counted else 0
    data = [
        {"object": "embedding", "index": i, "embedding": vector.tolist()} for i, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": read, "total_tokens": read}
    return CreateEmbeddingResponse.model_validate(
        {"object": "list", "model": name, "data": data, "usage": usage}
    )


def messages_of(given: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """Messages as OpenAI writes them → ours.

    Raises:
        PromptError: a role or a content that there is not; the message is named.
    """
    if isinstance(given, str) or not all(isinstance(message, Mapping) for message in given):
        raise PromptError("messages is a list of objects, each with a role and a content: give one")
    return tuple(_message(i, message) for i, message in enumerate(given))


def _parted(options: Mapping[str, Any], taken: set[str]) -> tuple[_Call, dict[str, Any]]:
    """The options of a call, and those of generation."""
    known = taken | set(GenerationOptions.model_fields)
    known |= {other for other, name in ALIASES.items() if name in known}
    for key in options:
        if key not in known:
            raise unknown(key, known)
    given = {key: value for key, value in options.items() if value is not None}
    call = checked(_Call, {key: given.pop(key) for key in taken if key in given})
    if call.suffix is not None:
        raise Unsupported("suffix: no model here was trained to fill a gap; leave it out")
    if call.response_format not in (None, {"type": "text"}):
        raise Unsupported("response_format: answers are free text, no grammar binds them; leave it out")
    return call, given


def _repeated(requests: Sequence[Request], n: int) -> list[Request]:
    """Each request n times; where there is a seed, each time another one, else all would be the same."""
    return [_reseeded(request, i) for request in requests for i in range(n)]


def _reseeded(request: Request, i: int) -> Request:
    if request.options.seed is None:
        return request
    return replace(request, options=override(request.options, {"seed": request.options.seed + i}))


def _prompts(given: Prompt) -> Sequence[str] | Sequence[tuple[int, ...]]:
    """A text, the token ids of one, or several of either → a list."""
    listed: list[Any] = [given] if isinstance(given, str) else list(given)
    if listed and all(isinstance(one, str) for one in listed):
        return listed
    if listed and all(isinstance(one, int) for one in listed):
        listed = [listed]
    ids = [tuple(one) if isinstance(one, Sequence) and not isinstance(one, str) else () for one in listed]
    if not ids or not all(one and all(isinstance(token, int) for token in one) for one in ids):
        raise PromptError("this is no text, no list of token ids and no list of either: give one of these")
    return ids


def _message(i: int, given: Mapping[str, Any]) -> Message:
    role = ROLES.get(given.get("role", ""))
    if role is None:
        raise PromptError(f"messages[{i}] has the role {given.get('role')!r}: take one of {', '.join(ROLES)}")
    content = given.get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    return Message(role, tuple(_part(i, part) for part in parts))


def _part(i: int, part: Any) -> Part:
    match part:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            return Image(url)
    raise PromptError(f"messages[{i}] has content that is no text, and no part of type text or image_url")
