"""Errors as OpenAI's error objects, with their HTTP status."""

from __future__ import annotations

from typing import Any

from adapters.openai_api.requests import UnknownModel
from engine.errors import AdapterError, ConfigurationError, PromptError, Unsupported


class Refused(AdapterError):
    """A request that is refused for what it is or when it comes, by an HTTP status."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


def as_object(error: AdapterError) -> dict[str, Any]:
    """OpenAI's error object."""
    status, code = status_of(error)
    kind = "invalid_request_error" if status < 500 else "server_error"
    if status == 429:
        kind = "rate_limit_error"
    return {"error": {"message": str(error), "type": kind, "param": None, "code": code}}


def status_of(error: AdapterError) -> tuple[int, str | None]:
    """The HTTP status of an error, and OpenAI's code for it, if there is one."""
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
