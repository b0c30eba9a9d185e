"""Errors as OpenAI's error objects with their HTTP status."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

from adapters.openai_api.requests import UnknownModel
from engine.errors import AdapterError, ConfigurationError, PromptError, Unsupported

# Seconds after which a client that was refused for lack of room may ask again.
RETRY_AFTER = 1


class Refused(AdapterError):
    """A request that is refused for what it is or when it comes, by an HTTP status."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def full(most: int) -> Refused:
    """The error of a request that finds no room in the queue."""
    text = f"{most} answers are running or waiting already: ask again in a moment"
    return Refused(429, text, "rate_limit_exceeded", retry_after=str(RETRY_AFTER))


def stopping() -> Refused:
    """The error of a request to a server that is stopping."""
    return Refused(503, "the server is stopping: ask again later", "unavailable", retry_after="5")


def as_object(error: AdapterError) -> dict[str, Any]:
    """OpenAI's error object."""
    status, code = _status(error)
    kind = "invalid_request_error" if status < 500 else "server_error"
    if status == 429:
        kind = "rate_limit_error"
    return {"error": {"message": str(error), "type": kind, "param": None, "code": code}}


def as_response(error: AdapterError) -> JSONResponse:
    """A response with an error."""
    headers = error.headers if isinstance(error, Refused) else None
    return JSONResponse(as_object(error), _status(error)[0], headers)


def _status(error: AdapterError) -> tuple[int, str | None]:
    match error:
        case Refused():
            return error.status, error.code
        case UnknownModel():
            return 404, "model_not_found"
        case Unsupported():
            return 400, "unsupported"
        case ConfigurationError() | PromptError():
            return 400, None
    return 500, None
