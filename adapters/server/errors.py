"""Errors of the server itself, and errors as responses."""

from __future__ import annotations

from starlette.responses import JSONResponse

from adapters.openai_api.errors import Refused, as_object, status_of
from engine.errors import AdapterError

# Seconds after which a client that was refused for lack of room may ask again.
RETRY_AFTER = 1


def full(most: int) -> Refused:
    """The error of a request that finds no room in the queue."""
    text = f"{most} answers are running or waiting already: ask again in a moment"
    return Refused(429, text, "rate_limit_exceeded", retry_after=str(RETRY_AFTER))


def stopping() -> Refused:
    """The error of a request to a server that is stopping."""
    return Refused(503, "the server is stopping: ask again later", "unavailable", retry_after="5")


def as_response(error: AdapterError) -> JSONResponse:
    """A response with an error."""
    headers = error.headers if isinstance(error, Refused) else None
    return JSONResponse(as_object(error), status_of(error)[0], headers)
