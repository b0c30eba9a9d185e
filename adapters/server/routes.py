"""The routes of OpenAI's API, and those that score and rank."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from adapters.openai_api import responses, responses_api
from adapters.openai_api.requests import Call, successful
from adapters.server import ranking, schemas
from adapters.server.batch import Answering, Batch
from adapters.server.connections import read_json, while_connected
from adapters.server.errors import Refused, as_object
from engine.errors import AdapterError, ConfigurationError, Unsupported
from engine.options.names import ALIASES
from engine.types import Answer, Chunk

if TYPE_CHECKING:
    from adapters.hugging import HuggingAdapter

# Options that a client may not set: a template is a program.
_RESERVED = {"chat_template"} | {alias for alias, name in ALIASES.items() if name == "chat_template"}
Whole = Callable[[list[Answer]], dict[str, Any]]


def routes(adapter: HuggingAdapter, batch: Batch) -> APIRouter:
    """The routes of a loaded model whose answers are generated in a batch."""
    router = APIRouter(prefix="/v1")
    began = int(time.time())

    @router.get("/models", tags=["models"])
    async def models() -> Response:
        """The names of the model."""
        return JSONResponse(
            {"object": "list", "data": [_model(name, began) for name in adapter.public_names]}
        )

    @router.get("/models/{name:path}", tags=["models"])
    async def model(name: str) -> Response:
        """The model, if it has this name."""
        return JSONResponse(_model(adapter.named(name), began))

    @router.post("/chat/completions", tags=["answers"], openapi_extra=schemas.CHAT)
    async def chat(request: Request) -> Response:
        """The next answer of a conversation."""
        body = await _body(request)
        call = adapter.chat_call(_taken(body, "messages"), body.pop("model", None), body)
        whole: Whole = lambda answers: responses.chat_completion(call.head, answers)  # noqa: E731
        return await _answered(request, batch, call, responses.ChatStream(call.head), whole)

    @router.post("/completions", tags=["answers"], openapi_extra=schemas.COMPLETION)
    async def completion(request: Request) -> Response:
        """The continuation of a text."""
        body = await _body(request)
        call = adapter.completion_call(_taken(body, "prompt"), body.pop("model", None), body)
        echoes = await batch.run(lambda: adapter.echoes(call)) if call.echo else []
        whole: Whole = lambda answers: responses.completion(call.head, answers, echoes)  # noqa: E731
        return await _answered(request, batch, call, responses.CompletionStream(call.head), whole)

    @router.post("/responses", tags=["answers"], openapi_extra=schemas.RESPONSE)
    async def response(request: Request) -> Response:
        """The next answer of a conversation, in the form of the Responses API; nothing is stored."""
        body = await _body(request)
        name = body.pop("model", None)
        messages, options = responses_api.as_chat(body)
        call = adapter.chat_call(messages, name, options)
        stream = responses_api.ResponseStream(call.head, body)
        whole: Whole = lambda answers: responses_api.response(call.head, body, answers[0])  # noqa: E731
        return await _answered(request, batch, call, stream, whole)

    @router.post("/embeddings", tags=["vectors and scores"], openapi_extra=schemas.EMBEDDING)
    async def embeddings(request: Request) -> Response:
        """The embeddings of texts."""
        body = await _body(request)
        texts, name = _taken(body, "input"), adapter.named(body.pop("model", None))
        encode = _ENCODINGS.get(str(body.pop("encoding_format", None) or "float"))
        if encode is None:
            raise ConfigurationError(f"encoding_format is one of {', '.join(_ENCODINGS)}")
        body.pop("user", None)
        kind = body.pop("kind", None)
        work = batch.run(lambda: adapter.embedded(texts, kind, body))
        vectors, tokens = await while_connected(request, work)
        return _json(responses.embeddings(name, [encode(vector) for vector in vectors], tokens))

    @router.post("/score", tags=["vectors and scores"], openapi_extra=schemas.SCORE)
    async def score(request: Request) -> Response:
        """The log-probability of each candidate as the continuation of a text or a conversation."""
        body = await _body(request)
        prompt, candidates = _taken(body, "prompt"), _texts(body, "candidates")
        name = adapter.named(body.pop("model", None))
        work = batch.run(lambda: ranking.scored(adapter, prompt, candidates, body))
        return _json({"object": "list", "model": name, "data": await while_connected(request, work)})

    @router.post("/rerank", tags=["vectors and scores"], openapi_extra=schemas.RERANK)
    async def rerank(request: Request) -> Response:
        """Documents by their relevance to a query, the most relevant first."""
        body = await _body(request)
        query, documents = _taken(body, "query"), _texts(body, "documents")
        name = adapter.named(body.pop("model", None))
        work = batch.run(lambda: ranking.reranked(adapter, query, documents, body))
        return _json({"model": name, "results": await while_connected(request, work)})

    return router


class EventStream(StreamingResponse):
    """Server-sent events. When the client hangs up, what has no answer yet leaves the batch."""

    def __init__(self, events: AsyncIterator[bytes], answering: Answering) -> None:
        super().__init__(events, media_type="text/event-stream", headers={"cache-control": "no-cache"})
        self._answering = answering

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answering.cancel()


async def _answered(
    request: Request, batch: Batch, call: Call, stream: responses.Stream, whole: Whole
) -> Response:
    answering = batch.submit(call.requests)
    if not call.stream:
        try:
            return _json(whole(await while_connected(request, _gathered(answering, len(call.requests)))))
        finally:
            answering.cancel()
    try:
        # An error before the first text still has its own status.
        first = await while_connected(request, _successful(answering))
    except BaseException:
        answering.cancel()
        raise
    return EventStream(_events(stream, first, answering), answering)


async def _gathered(answering: Answering, count: int) -> list[Answer]:
    answers: dict[int, Answer] = {}
    async for chunk in answering:
        if chunk.answer is not None:
            answers[chunk.index] = successful(chunk.answer)
    return [answers[index] for index in range(count)]


async def _successful(answering: Answering) -> Chunk:
    chunk = await anext(answering)
    if chunk.answer is not None:
        successful(chunk.answer)
    return chunk


async def _events(stream: responses.Stream, first: Chunk, answering: Answering) -> AsyncIterator[bytes]:
    """The events of a response; an error ends them."""
    for event in [*stream.first(), *stream.events(first)]:
        yield _event(event)
    try:
        while True:
            for event in stream.events(await _successful(answering)):
                yield _event(event)
    except StopAsyncIteration:
        for event in stream.last():
            yield _event(event)
    except AdapterError as error:
        yield _event(as_object(error))
    if isinstance(stream, responses.ChunkStream):
        yield b"data: [DONE]\n\n"


def _event(event: dict[str, Any]) -> bytes:
    name = f"event: {event['type']}\n".encode() if "type" in event else b""
    return name + b"data: " + _encoded(event) + b"\n\n"


def _encoded(value: dict[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _json(value: dict[str, Any]) -> Response:
    return Response(_encoded(value), media_type="application/json")


async def _body(request: Request) -> dict[str, Any]:
    body = await read_json(request)
    for key in _RESERVED & body.keys():
        if body.pop(key) is not None:
            raise Unsupported(f"{key}: only the server's own configuration may set it; leave it out")
    return body


def _taken(body: dict[str, Any], key: str) -> Any:
    """A parameter that has to be there; it is removed."""
    if body.get(key) is None:
        raise Refused(400, f"{key} is missing: give it", "missing_required_parameter")
    return body.pop(key)


def _texts(body: dict[str, Any], key: str) -> list[str]:
    given = _taken(body, key)
    if not isinstance(given, list) or not given or not all(isinstance(one, str) for one in given):
        raise Refused(400, f"{key} is a list of at least one text")
    return given


def _model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "huggingface"}


def _floats(vector: Any) -> list[float]:
    return [float(value) for value in vector]


def _base64(vector: Any) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


_ENCODINGS: dict[str, Callable[[Any], list[float] | str]] = {"float": _floats, "base64": _base64}
