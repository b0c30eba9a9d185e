"""A server that answers as OpenAI's, TGI's and a Dataloop app's do, and goes wrong where a test says so."""

import asyncio
import contextlib
import gzip
import json
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, NamedTuple, Self

from aiohttp import web

# Each token of an answer has this log-probability, its only likely other one twice of it.
LOGPROB = -0.25


class Asked(NamedTuple):
    """A request as it came."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


Handler = Callable[["Server", web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]


class Server:
    """A server in a thread, on a free loopback port; a context manager.

    It answers what was said last with the same words in capitals.

    Attributes:
        asked: every request so far.
        logprobs: whether it gives log-probabilities.
        routes: what it has; the test may change it.
        open: how many requests it is answering.
        peak: how many it answered at a time at most.
        left: set once somebody hangs up before the answer is whole.
    """

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.logprobs = True
        self.routes: dict[str, Handler] = dict(ROUTES)
        self.open = self.peak = 0
        self.left = threading.Event()
        self._instead: deque[Handler] = deque()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def will(self, *handlers: Handler) -> None:
        """The next requests are answered by these instead."""
        self._instead += handlers

    def go(self) -> None:
        """Lets what is held go on."""
        self._loop.call_soon_threadsafe(self.going.set)

    def __enter__(self) -> Self:
        started: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True)
        self._thread.start()
        started.result()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()

    async def _serve(self, started: Future) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping, self.going = asyncio.Event(), asyncio.Event()
        application = web.Application(client_max_size=2**24)
        application.router.add_route("*", "/{path:.*}", self._answer)
        runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]
        started.set_result(None)
        await self._stopping.wait()
        self.going.set()
        await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json() if request.can_read_body else {}
        self.asked.append(Asked(request.path, dict(request.headers), body))
        handler = self._instead.popleft() if self._instead else self.routes.get(request.path, missing)
        self.open += 1
        self.peak = max(self.peak, self.open)
        try:
            return await handler(self, request, body)
        except (asyncio.CancelledError, ConnectionResetError):
            self.left.set()
            raise
        finally:
            self.open -= 1


async def missing(server: Server, request: web.Request, body: dict) -> web.Response:
    return web.json_response({"detail": "Not Found"}, status=404)


def tokens(said: str | list[dict]) -> list[str]:
    """The answer's tokens: a word each, with the space before it."""
    if isinstance(said, list):
        said = "\n".join(part.get("text") or part["type"] for part in said)
    words = said.upper().split(" ")
    return words[:1] + [f" {word}" for word in words[1:]]


def _top(token: str, more: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    others = [{"token": f"#{i}", "logprob": -40.0 - i} for i in range(18)]
    return [*others, {"token": "?", "logprob": 2 * LOGPROB}, {"token": token, "logprob": LOGPROB}]


def _noted(server: Server, body: dict, token: str) -> dict[str, Any] | None:
    if not (server.logprobs and body.get("logprobs")):
        return None
    top = _top(token)[-body["top_logprobs"] :] if body.get("top_logprobs") else []
    return {"content": [{"token": token, "logprob": LOGPROB, "bytes": None, "top_logprobs": top}]}


async def chat(server: Server, request: web.Request, body: dict) -> web.StreamResponse:
    """OpenAI's chat completions."""
    said = tokens(body["messages"][-1]["content"])
    usage = {"prompt_tokens": 7, "completion_tokens": len(said), "total_tokens": 7 + len(said)}
    if body.get("stream"):
        return await streamed(request, _chat_chunks(server, body, said, usage))
    noted = [_noted(server, body, token) for token in said]
    logprobs = {"content": [one["content"][0] for one in noted]} if all(noted) else None
    message = {"role": "assistant", "content": "".join(said)}
    choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": "stop"}
    return web.json_response({"object": "chat.completion", "choices": [choice], "usage": usage})


def _chat_chunks(server: Server, body: dict, said: list[str], usage: dict) -> Iterator[dict]:
    def choice(delta: dict, **more: Any) -> dict:
        return {"choices": [{"index": 0, "delta": delta, "finish_reason": None} | more]}

    yield choice({"role": "assistant", "content": ""})
    for token in said:
        yield choice({"content": token}, logprobs=_noted(server, body, token))
    yield choice({}, finish_reason="stop")
    if body.get("stream_options"):
        yield {"choices": [], "usage": usage}


async def completion(server: Server, request: web.Request, body: dict) -> web.StreamResponse:
    """OpenAI's completions; a prompt of token ids is answered with their sum."""
    prompt = body["prompt"]
    said = tokens(prompt if isinstance(prompt, str) else str(sum(prompt)))

    def choice(some: list[str], finish: str | None) -> dict:
        noted = {
            "tokens": some,
            "token_logprobs": [LOGPROB] * len(some),
            "top_logprobs": [{token: LOGPROB} for token in some] if body.get("logprobs") else None,
        }
        given = server.logprobs and "logprobs" in body
        return {
            "choices": [
                {"text": "".join(some), "logprobs": (given and noted) or None, "finish_reason": finish}
            ]
        }

    if body.get("stream"):
        return await streamed(request, [*(choice([token], None) for token in said), choice([], "length")])
    return web.json_response(choice(said, "length") | {"usage": {"prompt_tokens": 3, "completion_tokens": 9}})


def _tgi_tokens(body: dict) -> list[dict]:
    said = tokens(body["inputs"])
    shown = [{"id": i, "text": token, "logprob": LOGPROB, "special": False} for i, token in enumerate(said)]
    return [*shown, {"id": 99, "text": "</s>", "logprob": LOGPROB, "special": True}]


async def generate(server: Server, request: web.Request, body: dict) -> web.Response:
    """TGI's own route."""
    shown = _tgi_tokens(body)
    top = [[{"id": 7, "text": "?", "logprob": 2 * LOGPROB}, token] for token in shown]
    details = {"finish_reason": "eos_token", "generated_tokens": len(shown), "tokens": shown, "prefill": []}
    if body["parameters"].get("top_n_tokens"):
        details["top_tokens"] = top
    text = "".join(token["text"] for token in shown if not token["special"])
    return web.json_response({"generated_text": text, "details": details})


async def generate_stream(server: Server, request: web.Request, body: dict) -> web.StreamResponse:
    """TGI's own route, in pieces."""
    shown = _tgi_tokens(body)
    chunks = [{"token": token, "generated_text": None, "details": None} for token in shown]
    chunks[-1]["generated_text"] = "".join(token["text"] for token in shown if not token["special"])
    chunks[-1]["details"] = {"finish_reason": "length", "generated_tokens": len(shown)}
    return await streamed(request, chunks)


def vector(text: str) -> list[float]:
    """What a text is embedded as."""
    return [float(len(text)), 1.0, -2.0]


async def embeddings(server: Server, request: web.Request, body: dict) -> web.Response:
    """OpenAI's embeddings, last first: only their index orders them."""
    rows = [{"index": i, "embedding": vector(text)} for i, text in enumerate(body["input"])]
    return web.json_response({"data": rows[::-1]})


async def embed(server: Server, request: web.Request, body: dict) -> web.Response:
    """The route of TGI's sister for embeddings."""
    return web.json_response([vector(text) for text in body["inputs"]])


async def streamed(
    request: web.Request, chunks: Iterable[dict], cut: bool = False, pause: Awaitable | None = None
) -> web.StreamResponse:
    """Server-sent events; `cut` drops the connection after them, `pause` is awaited after the first two."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for i, chunk in enumerate(chunks):
        await response.write(f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode())
        if pause is not None and i == 1:
            await pause
    if cut:
        request.transport.abort()
    else:
        await response.write(b"data: [DONE]\n\n")
    return response


ROUTES: dict[str, Handler] = {
    "/v1/chat/completions": chat,
    "/v1/completions": completion,
    "/generate": generate,
    "/generate_stream": generate_stream,
    "/v1/embeddings": embeddings,
    "/embed": embed,
}


def refusing(status: int, said: Any = "no", **headers: str) -> Handler:
    """Answers with a status that is no success."""

    async def refuse(server: Server, request: web.Request, body: dict) -> web.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(said, str):
            return web.Response(text=said, status=status, headers=named)
        return web.json_response(said, status=status, headers=named)

    return refuse


def answering(body: Any) -> Handler:
    """Answers with this JSON, or with these bytes."""

    async def answer(server: Server, request: web.Request, _: dict) -> web.Response:
        return web.Response(body=body if isinstance(body, bytes) else json.dumps(body).encode())

    return answer


def sending(*parts: bytes, status: int = 200, **headers: str) -> Handler:
    """Answers with these bytes, each part by itself, as an event stream."""

    async def send(server: Server, request: web.Request, _: dict) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        response = web.StreamResponse(status=status, headers={"Content-Type": "text/event-stream"} | named)
        await response.prepare(request)
        for part in parts:
            await response.write(part)
        return response

    return send


def quoting(status: int, **more: Any) -> Handler:
    """Refuses, and quotes all that it was sent: headers and body, in a message and in the reason phrase."""

    async def quote(server: Server, request: web.Request, body: dict) -> web.Response:
        sent = f"{json.dumps(body)} {dict(request.headers)}"
        said = {"error": {"message": sent, **more}, "message": sent, "detail": [{"msg": sent, "input": body}]}
        return web.json_response(said, status=status, reason=sent.replace("\n", " "))

    return quote


def streaming(*chunks: dict, cut: bool = False) -> Handler:
    """Answers with these chunks; `cut` drops the connection after them."""

    async def stream(server: Server, request: web.Request, _: dict) -> web.StreamResponse:
        return await streamed(request, chunks, cut)

    return stream


async def dropping(server: Server, request: web.Request, body: dict) -> web.Response:
    """Drops the connection."""
    request.transport.abort()
    return web.Response()


async def held(server: Server, request: web.Request, body: dict) -> web.StreamResponse:
    """Answers nothing until the test says so; a stream stops after its first piece until then."""
    if not body.get("stream"):
        await server.going.wait()
        return await chat(server, request, body)
    said = tokens(body["messages"][-1]["content"])
    return await streamed(request, _chat_chunks(server, body, said, {}), pause=server.going.wait())


async def endless(server: Server, request: web.Request, body: dict) -> web.StreamResponse:
    """Never comes to an end."""
    response = web.StreamResponse()
    await response.prepare(request)
    with contextlib.suppress(ConnectionResetError):
        while True:
            await response.write(b" " * 2**16)
    return response


async def inflating(server: Server, request: web.Request, body: dict) -> web.Response:
    """A small body that becomes a large one."""
    return web.Response(body=gzip.compress(b" " * 2**22), headers={"Content-Encoding": "gzip"})


def together(count: int) -> Handler:
    """Answers once so many are asked at a time."""
    barrier = asyncio.Barrier(count)

    async def wait(server: Server, request: web.Request, body: dict) -> web.StreamResponse:
        await barrier.wait()
        return await chat(server, request, body)

    return wait


def of_app(server: Server, token: str, cookie: str) -> dict[str, Handler]:
    """A platform with the app "app-1", and its server, which only who has the cookie may ask."""

    def allowed(request: web.Request) -> bool:
        return request.headers.get("Authorization") == f"Bearer {token}"

    async def app(_: Server, request: web.Request, body: dict) -> web.Response:
        if not allowed(request):
            return web.Response(status=401)
        return web.json_response({"id": "app-1", "routes": {"chat": f"{server.url}/gateway/chat"}})

    async def gateway(_: Server, request: web.Request, body: dict) -> web.Response:
        if not allowed(request):
            return web.Response(status=401)
        response = web.Response(status=302, headers={"Location": f"{server.url}/service/chat/v1/models"})
        response.set_cookie("JWT-APP", cookie)
        return response

    async def service(_: Server, request: web.Request, body: dict) -> web.StreamResponse:
        if request.cookies.get("JWT-APP") != cookie or "Authorization" in request.headers:
            return web.Response(status=401)
        return await chat(server, request, body)

    async def agent(_: Server, request: web.Request, body: dict) -> web.Response:
        return web.json_response({"jwt": token})

    return {
        "/api/v1/apps/app-1": app,
        "/gateway/chat/v1/models": gateway,
        "/service/v1/chat/completions": service,
        "/get_jwt": agent,
    }
