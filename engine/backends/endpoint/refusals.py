"""What a server says when it does not answer, and what is to be done then."""

import json
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from engine.errors import GenerationError

_HINTS = {
    401: "set a token with access as HUGGINGFACE_TOKEN or HF_TOKEN",
    402: "the account has no credit left: top it up, or choose another provider",
    403: "the token has no access: set another as HUGGINGFACE_TOKEN or HF_TOKEN",
    404: "check base_url, and that model_name is what the server calls the model",
    405: "check base_url and api: the server has no such route",
    413: "shorten the conversation",
    429: "it is asked too often: lower max_concurrent, or raise retries",
}


class Refused(GenerationError):
    """A server that answered a request with a status that is no success.

    Attributes:
        status: the HTTP status.
        said: the body, in small letters: what the server has to say about it.
        retry_after: seconds after which it wants to be asked again; None where it names none.
    """

    def __init__(self, text: str, status: int, said: str, retry_after: float | None) -> None:
        super().__init__(text)
        self.status = status
        self.said = said
        self.retry_after = retry_after


class Dropped(GenerationError):
    """A connection that could not be had, or ended before the answer did."""


def hint(status: int) -> str:
    """What to do about a status."""
    return _HINTS.get(status, "its log says why" if status >= 500 else "leave out or change what it names")


def seconds(retry_after: str | None) -> float | None:
    """A Retry-After header, which has seconds or a date, as seconds from now."""
    if retry_after is None:
        return None
    with suppress(ValueError):
        return max(float(retry_after), 0)
    with suppress(ValueError, TypeError):
        when = parsedate_to_datetime(retry_after)
        return max((when - datetime.now(UTC)).total_seconds(), 0)
    return None


def parsed(body: bytes) -> Any:
    """A body's JSON, else its text; nothing of a page for people."""
    text = body.decode("utf-8", "replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return "" if text.lstrip().startswith("<") else text


def reason(found: Any) -> str:
    """What an error says, and nothing of what it was sent."""
    while isinstance(found, dict):
        found = next((found[key] for key in ("error", "message", "detail") if found.get(key)), "")
    if isinstance(found, list):  # Of FastAPI: what is wrong, where, and the whole input, which is private.
        found = "; ".join(
            f"{'.'.join(map(str, problem.get('loc', ())))} {problem.get('msg', problem.get('message', ''))}"
            if isinstance(problem, dict)
            else str(problem)
            for problem in found
        )
    return str(found)
