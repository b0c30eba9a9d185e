"""What another program says when it refuses → a reason, in our words.

Its own sentences stay out of it: servers quote what they were sent, prompts, answers and tokens among it.
They are in the log at DEBUG, without the tokens.
"""

import json
import logging
import re
from collections.abc import Iterable, Iterator
from typing import Any

from engine.errors import AdapterError

logger = logging.getLogger(__name__)

# Where OpenAI, vLLM, TGI, FastAPI and others name what is wrong by a word for programs.
_KEYS = ("code", "error_code", "errorCode", "type", "error_type", "param", "loc")
_WITHIN = ("error", "errors", "detail", "message")
_WORD = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_SAID = 2000  # Characters of a peer's own words in the log.


def codes(said: Any, secrets: Iterable[str | None], status: int | None = None) -> str:
    """The words for programs in a refusal, as "context_length_exceeded, max_tokens"; "" where it has none.

    Args:
        said: the body as bytes, or its JSON.
        secrets: what the peer was told and nobody else may be, not even in the log.
        status: the HTTP status; None within an answer that began well.
    """
    known = list(filter(None, secrets))
    if said and logger.isEnabledFor(logging.DEBUG):
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else repr(said)
        logger.debug("refused (status %s): %s", status, redacted(text, known)[:_SAID])
    found = _words(_parsed(said) if isinstance(said, bytes) else said)
    told = (word for word in found if not any(word in secret or secret in word for secret in known))
    return ", ".join(dict.fromkeys(word for word in told if word != f"code {status}"))


def why(error: Exception, secrets: Iterable[str | None]) -> str:
    """What an exception says, where the words are ours; else its type and status alone.

    Args:
        secrets: as `codes`.
    """
    if isinstance(error, AdapterError):
        return str(error)
    kind, status = type(error).__name__, getattr(error, "status_code", None)
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug("%s: %s", kind, redacted(repr(error), secrets)[:_SAID])
    return kind if status is None else f"{kind}, status {status}"


def redacted(text: str, secrets: Iterable[str | None]) -> str:
    """A text without what is secret."""
    for secret in filter(None, secrets):
        text = text.replace(secret, "<secret>")
    return text


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _words(found: Any, depth: int = 4) -> Iterator[str]:
    """The words for programs in an error, the outermost first; nothing that could be a sentence."""
    if isinstance(found, list):
        found = next(iter(found), None)
    if not isinstance(found, dict) or not depth:
        return
    for key in _KEYS:
        match found.get(key):
            case bool():
                pass
            case int(number) if abs(number) < 10**6:
                yield f"code {number}"
            case str() | list() as value:
                word = value if isinstance(value, str) else ".".join(map(str, value))
                if _WORD.fullmatch(word):
                    yield word
    for key in _WITHIN:
        yield from _words(found.get(key), depth - 1)
