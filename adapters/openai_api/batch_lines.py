"""Lines of OpenAI's batch files: requests in, answers and errors out. Pure.

The input has `custom_id`, `method`, `url` and `body`; output and errors have `id`, `custom_id`, `response`
(`status_code`, `request_id`, `body`) and `error` (`code`, `message`). A line that is no request of a batch
has an `error`; a request that the model cannot answer has a response with another status than 200.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from adapters.openai_api.bodies import ROUTES, checked, encoded
from adapters.openai_api.errors import Refused, as_object, status_of
from engine.errors import AdapterError

# What each line of our output and errors begins with.
BEGINNING = b'{"id":"batch_req_'
# Line ends to Python's `splitlines` and to JavaScript, though not to JSON: they would cut a line.
_LINE_ENDS = {end.encode(): f"\\u{ord(end):04x}".encode() for end in "\x85\u2028\u2029"}


class NoRequest(AdapterError):
    """A line that is no request of a batch.

    Attributes:
        code: OpenAI's code of the error.
        custom_id: what the line is called; None if it has no name.
    """

    def __init__(self, code: str, message: str, custom_id: str | None = None) -> None:
        super().__init__(message)
        self.code, self.custom_id = code, custom_id


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """A request of a batch."""

    custom_id: str
    url: str
    body: dict[str, Any]


def is_request(line: bytes) -> bool | None:
    """Whether a line belongs to a batch file; None if it is not a JSON object, which may be in any file."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    return "custom_id" in found or {"url", "body"} <= found.keys()


def parsed(line: bytes) -> BatchRequest:
    """A line as a request.

    Raises:
        NoRequest: it is none; the text says what is missing.
    """
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise NoRequest("invalid_json_line", f"this is not JSON ({error}): write a JSON object") from None
    if not isinstance(found, dict):
        raise NoRequest(
            "invalid_json_line", "this is not a JSON object: write one with custom_id, url and body"
        )
    name, url, body = found.get("custom_id"), found.get("url"), found.get("body")
    if not isinstance(name, str) or not name:
        raise NoRequest("missing_required_parameter", "it has no custom_id: give it a text of its own")
    if found.get("method", "POST") != "POST":
        raise NoRequest("invalid_method", f"method is {found['method']!r}: write POST", name)
    if not isinstance(url, str) or url not in ROUTES:
        raise NoRequest("invalid_url", f"url is {url!r}: take one of {', '.join(ROUTES)}", name)
    if not isinstance(body, dict):
        raise NoRequest("invalid_request", "it has no body: give the JSON object of the request", name)
    if body.get("stream"):
        raise NoRequest("invalid_request", "stream: a batch has whole answers; leave it out", name)
    return BatchRequest(name, url, checked_body(body, name))


def checked_body(body: dict[str, Any], custom_id: str) -> dict[str, Any]:
    """The body without options that it may not set.

    Raises:
        NoRequest: it sets one of them.
    """
    try:
        return checked(body)
    except AdapterError as error:
        raise NoRequest("invalid_request", str(error), custom_id) from None


def answered(custom_id: str, body: Mapping[str, Any]) -> bytes:
    """The output's line of an answered request."""
    return _line(custom_id, response=_response(200, dict(body)))


def failed(custom_id: str, error: AdapterError) -> bytes:
    """The errors' line of a request that has no answer."""
    return _line(custom_id, response=_response(status_of(error)[0], as_object(error)))


def refused(error: NoRequest) -> bytes:
    """The errors' line of a line that is no request."""
    return _line(error.custom_id, error={"code": error.code, "message": str(error)})


def answered_name(line: bytes) -> str | None:
    """The custom_id of an answered request, from its line of an output; None where it has no answer.

    Raises:
        Refused: it is not a line of a batch's output or errors.
    """
    try:
        found = json.loads(line)
        name, response = found["custom_id"], found["response"]
        return name if found["id"] and response and response["status_code"] == 200 else None
    except (ValueError, RecursionError, KeyError, TypeError):
        raise Refused(400, "it is not a line of a batch's output") from None


def _response(status: int, body: dict[str, Any]) -> dict[str, Any]:
    return {"status_code": status, "request_id": f"req_{uuid.uuid4().hex}", "body": body}


def _line(custom_id: str | None, **fields: Any) -> bytes:
    whole = {"id": f"batch_req_{uuid.uuid4().hex}", "custom_id": custom_id, "response": None, "error": None}
    line = encoded(whole | fields)
    for end, escape in _LINE_ENDS.items():
        line = line.replace(end, escape)
    return line + b"\n"
