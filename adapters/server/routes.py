"""The routes of OpenAI's API, and those that score and rank."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from adapters.openai_api import bodies, responses
from adapters.openai_api.bodies import Generation, encoded, taken
from adapters.openai_api.errors import Refused, as_object
from adapters.openai_api.requests import successful
from adapters.server import ranking, schemas
from adapters.server.batch import Answering, Batch
from adapters.server.connections import read_json, while_connected
from engine.errors import AdapterError
from engine.types import Answer, Chunk

if TYPE_CHECKING:
    from adapters.hugging import HuggingAdapter


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
        return await _answered(request, batch, adapter, bodies.chat(adapter, await _body(request)))

    @router.post("/completions", tags=["answers"], openapi_extra=schemas.COMPLETION)
    async def completion(request: Request) -> Response:
        """The continuation of a text."""
        return await _answered(request, batch, adapter, bodies.completion(adapter, await _body(request)))

    @router.post("/responses", tags=["answers"], openapi_extra=schemas.RESPONSE)
    async def response(request: Request) -> Response:
        """The next answer of a conversation, in the form of the Responses API; nothing is stored."""
        return await _answered(request, batch, adapter, bodies.response(adapter, await _body(request)))

    @router.post("/embeddings", tags=["vectors and scores"], openapi_extra=schemas.EMBEDDING)
    async def embeddings(request: Request) -> Response:
        """The embeddings of texts."""
        asked = bodies.embedding(adapter, await _body(request))
        work = batch.run(lambda: adapter.embedded_together([asked.texts], asked.kind, asked.options))
        [(vectors, tokens)] = await while_connected(request, work)
        return _json(asked.whole(vectors, tokens))

    @router.post("/score", tags=["vectors and scores"], openapi_extra=schemas.SCORE)
    async def score(request: Request) -> Response:
        """The log-probability of each candidate as the continuation of a text or a conversation."""
        body = await _body(request)
        prompt, candidates = taken(body, "prompt"), _texts(body, "candidates")
        name = adapter.named(body.pop("model", None))
        work = batch.run(lambda: ranking.scored(adapter, prompt, candidates, body))
        return _json({"object": "list", "model": name, "data": await while_connected(request, work)})

    @router.post("/rerank", tags=["vectors and scores"], openapi_extra=schemas.RERANK)
    async def rerank(request: Request) -> Response:
        """Documents by their relevance to a query, the most relevant first."""
        body = await _body(request)
        query, documents = taken(body, "query"), _texts(body, "documents")
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


async def _answered(request: Request, batch: Batch, adapter: HuggingAdapter, asked: Generation) -> Response:
    call, stream = asked.call, asked.stream
    echoes = await batch.run(lambda: adapter.echoes(call)) if call.echo else []
    answering = batch.submit(call.requests)
    if not call.stream:
        try:
            answers = await while_connected(request, _gathered(answering, len(call.requests)))
            return _json(asked.whole(answers, echoes))
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
    return name + b"data: " + encoded(event) + b"\n\n"


def _json(value: dict[str, Any]) -> Response:
    return Response(encoded(value), media_type="application/json")


async def _body(request: Request) -> dict[str, Any]:
    return bodies.checked(await read_json(request))


def _texts(body: dict[str, Any], key: str) -> list[str]:
    given = taken(body, key)
    if not isinstance(given, list) or not given or not all(isinstance(one, str) for one in given):
        raise Refused(400, f"{key} is a list of at least one text")
    return given


def _model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": "huggingface"}
