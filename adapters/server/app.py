"""The application: routes, errors, keys, and the batch that all requests share."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

from fastapi import Depends, FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from adapters.openai_api.errors import Refused
from adapters.server import errors
from adapters.server.batch import Batch
from adapters.server.connections import RequestIds, check_key
from adapters.server.metrics import Metrics
from adapters.server.routes import routes
from engine.errors import AdapterError, GenerationError

if TYPE_CHECKING:
    from adapters.hugging import HuggingAdapter

logger = logging.getLogger(__name__)


def create(adapter: HuggingAdapter, *, api_key: str | None = None, max_requests: int = 512) -> FastAPI:
    """The application that serves a loaded model.

    Args:
        api_key: clients have to send it as a bearer token; None: no key is needed.
        max_requests: answers that may run and wait at a time.
    """
    metrics = Metrics()
    batch = Batch(adapter.engine, max_requests, metrics)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        batch.start()
        yield
        batch.stop()

    def check(request: Request) -> None:
        check_key(request, api_key)

    app = FastAPI(title=adapter.name, description="OpenAI's routes for one model.", lifespan=life)
    guarded = [Depends(check), Depends(HTTPBearer(auto_error=False))] if api_key else []
    app.include_router(routes(adapter, batch), dependencies=guarded)

    @app.get("/health", tags=["server"])
    async def health() -> Response:
        """Whether the server answers."""
        if batch.stopped:
            return errors.as_response(errors.stopping())
        return JSONResponse({"status": "ok"})

    @app.get("/metrics", tags=["server"], dependencies=guarded)
    async def measured() -> Response:
        """Queue, running answers, tokens and times, in Prometheus' text format."""
        return PlainTextResponse(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    handlers: dict[type[Exception], Callable[[Request, Any], Awaitable[Response]]] = {
        AdapterError: _adapter_error,
        HTTPException: _http_error,
        ClientDisconnect: _gone,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, cast(Any, handler))
    app.add_middleware(_Failures)
    app.add_middleware(RequestIds)
    return app


async def _adapter_error(_: Request, error: AdapterError) -> Response:
    return errors.as_response(error)


async def _http_error(request: Request, error: HTTPException) -> Response:
    text = f"{request.method} {request.url.path}: {error.detail}; GET /docs lists the routes"
    return errors.as_response(Refused(error.status_code, text))


async def _gone(_: Request, __: ClientDisconnect) -> Response:
    return Response(status_code=499)  # Nobody reads it.


class _Failures:
    """Answers what fails in an unexpected way with status 500, and keeps requests out of the log."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except Exception as error:  # A bug: it must not end the connection without a reason.
            logger.error("%s failed: %s", scope.get("path"), type(error).__name__)
            logger.debug("a request failed", exc_info=True)
            if started or scope["type"] != "http":
                raise
            failed = GenerationError("the server failed on this request: its log has the reason at DEBUG")
            await errors.as_response(failed)(scope, receive, send)
