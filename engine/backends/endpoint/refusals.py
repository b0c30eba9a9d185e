"""What a server says when it does not answer, and what is to be done then."""

import re
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

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

_TOO_LONG = re.compile(
    r"context[ _]?(length|window|size)|max_model_len|too many (input )?tokens|inputs?\W+tokens"
)
_QUOTED = re.compile(r"\W(messages|prompt|inputs)\W*:")  # The request itself, which names all of them.
_OPTIONS = (
    "frequency_penalty", "max_tokens", "min_p", "presence_penalty", "repetition_penalty", "seed", "stop",
    "temperature", "top_k", "top_logprobs", "top_p",
)  # fmt: skip


class Rejected(GenerationError):
    """A server that answered a request with a status that is no success.

    Attributes:
        status: the HTTP status.
        said: the body, in small letters: what the server has to say about it, for no one to read.
        retry_after: seconds after which it wants to be asked again; None where it names none.
    """

    def __init__(self, text: str, status: int, said: str, retry_after: float | None) -> None:
        super().__init__(text)
        self.status = status
        self.said = said
        self.retry_after = retry_after


class Dropped(GenerationError):
    """A connection that could not be had, or ended before the answer did."""


def hint(status: int, said: str) -> str:
    """What to do about a refusal, by its status and its body in small letters, of which nothing is told."""
    if 400 <= status < 500 and _TOO_LONG.search(said):
        return "the conversation is too long for it: shorten it, or lower max_new_tokens"
    if status in _HINTS:
        return _HINTS[status]
    if status >= 500:
        return "its log says why"
    if status < 400:
        return "it leads elsewhere, where nothing is sent: set base_url to where it leads"
    named = [option for option in _OPTIONS if option in said]
    if named and not _QUOTED.search(said):
        return f"leave out or change {' and '.join(named)}"
    return "leave out options that it may not know; its words are in the log at DEBUG"


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
