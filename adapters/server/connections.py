"""Connections: a client has to send its request within some time, and no more than a server can read."""

from __future__ import annotations

import asyncio
import json
import secrets
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

from adapters.openai_api.errors import Refused

Result = TypeVar("Result")
# Seconds in which a client has to send its request's head, and as many for its body.
PATIENCE = 30
# Seconds for running answers to end once the server has to stop.
GRACE = 30
# The most bytes of a request's body.
MAX_BODY = 2**21
_REQUEST_ID = 128


def configured(app: ASGIApp, host: str, port: int) -> Config:
    """The configuration of a server that runs an application."""
    return Config(
        app,
        host=host,
        port=port,
        http=Protocol,
        ws="none",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
    )


class Protocol(H11Protocol):
    """A connection that is closed if no whole request head comes in time."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the time."""
        super().connection_made(transport)
        self._deadline = self.loop.call_later(PATIENCE, self._close_idle)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the time."""
        if self._deadline is not None:
            self._deadline.cancel()
        super().connection_lost(exc)

    def _close_idle(self) -> None:
        if self.cycle is None:
            self.transport.close()


class RequestIds:
    """Gives each response an `x-request-id`: the client's own, or a new one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(b"x-request-id", b"")
        known = given if 0 < len(given) <= _REQUEST_ID and given.isascii() else uuid.uuid4().hex.encode()

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", known)]
            await send(message)

        await self.app(scope, receive, named)


def check_key(request: Request, key: str | None) -> None:
    """Checks the bearer token of a request, in a time that does not depend on it.

    Raises:
        Refused: it is not the key.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if key is None or (
        scheme.lower() == "bearer" and secrets.compare_digest(token.strip().encode("latin-1"), key.encode())
    ):
        return
    text = "this server needs its API key: send it as the header Authorization: Bearer KEY"
    raise Refused(401, text, "invalid_api_key", www_authenticate="Bearer")


async def read_json(request: Request) -> dict[str, Any]:
    """The JSON object in the body of a request.

    Raises:
        Refused: it is too large, does not come in time, or is not a JSON object.
        ClientDisconnect: the client has hung up.
    """
    try:
        async with asyncio.timeout(PATIENCE):
            body = await _read(request)
    except TimeoutError:
        raise Refused(408, f"the body did not come within {PATIENCE} seconds", connection="close") from None
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "the body is not JSON: send a JSON object") from None
    if not isinstance(value, dict):
        raise Refused(400, "the body is not a JSON object: send one")
    return value


async def _read(request: Request) -> bytes:
    length = request.headers.get("content-length", "0")
    body = bytearray()
    if length.isdecimal() and int(length) <= MAX_BODY:
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY:
                break
        else:
            return bytes(body)
    raise Refused(413, f"the request is larger than {MAX_BODY >> 20} MiB: shorten it", connection="close")


async def while_connected(request: Request, work: Awaitable[Result]) -> Result:
    """The result of some work, which is cancelled if the client hangs up. The body has been read before.

    Raises:
        ClientDisconnect: the client has hung up.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_hung_up(request.receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        watching.cancel()


async def _hung_up(receive: Callable[[], Awaitable[Message]]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
