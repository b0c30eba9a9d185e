"""Redacts what servers answer to a failed request: only their error codes are shown.

Their messages may quote prompts, answers and access tokens. They are logged at DEBUG, without secrets.
"""

import json
import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any

from engine.errors import AdapterError

logger = logging.getLogger(__name__)

# Keys under which OpenAI, vLLM, TGI, FastAPI and others put an error code.
_CODE_KEYS = ("code", "error_code", "errorCode", "type", "error_type", "param", "loc")
_NESTED_KEYS = ("error", "errors", "detail", "message")
_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_LOGGED = 2000  # Characters of the server's text in the log.


def codes(said: Any, secrets: Iterable[str | None], status: int | None = None) -> str:
    """The error codes in a refusal, as "context_length_exceeded, max_tokens"; "" if there are none.

    Args:
        said: the response body as bytes or parsed JSON.
        secrets: texts that must not appear, not even in the log.
        status: the HTTP status; None for an error within a stream that began well.
    """
    known = list(filter(None, secrets))
    if said and logger.isEnabledFor(logging.DEBUG):
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else repr(said)
        logger.debug("refused (status %s): %s", status, redacted(text, known)[:_LOGGED])
    found = _codes_in(_parsed(said) if isinstance(said, bytes) else said)
    public = (word for word in found if not any(word in secret or secret in word for secret in known))
    return ", ".join(dict.fromkeys(word for word in public if word != f"code {status}"))


def why(error: Exception, secrets: Iterable[str | None]) -> str:
    """The message of an `AdapterError`; of any other exception its type and HTTP status only.

    Args:
        secrets: texts that must not appear, not even in the log.
    """
    if isinstance(error, AdapterError):
        return str(error)
    kind, status = type(error).__name__, getattr(error, "status_code", None)
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug("%s: %s", kind, redacted(repr(error), secrets)[:_LOGGED])
    return kind if status is None else f"{kind}, status {status}"


def redacted(text: str, secrets: Iterable[str | None]) -> str:
    """The text with each secret replaced by "<secret>"."""
    for secret in filter(None, secrets):
        text = text.replace(secret, "<secret>")
    return text


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _codes_in(found: Any, depth: int = 4) -> Iterator[str]:
    """The error codes in parsed JSON, the outermost first; nothing that could be a sentence."""
    if isinstance(found, list):
        found = next(iter(found), None)
    if not isinstance(found, dict) or not depth:
        return
    for key in _CODE_KEYS:
        match found.get(key):
            case bool():
                pass
            case int(number) if abs(number) < 10**6:
                yield f"code {number}"
            case str() | list() as value:
                word = value if isinstance(value, str) else ".".join(map(str, value))
                if _CODE.fullmatch(word):
                    yield word
    for key in _NESTED_KEYS:
        yield from _codes_in(found.get(key), depth - 1)
