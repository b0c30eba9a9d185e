"""The errors of requests that a server does not answer, with what to do about them."""

import re

from engine.errors import GenerationError

_HINTS = {
    401: "set a token with access as HUGGINGFACE_TOKEN or HF_TOKEN",
    402: "the account has no credit left: top it up, or choose another provider",
    403: "the token has no access: set another as HUGGINGFACE_TOKEN or HF_TOKEN",
    404: "check base_url, and that model_name is what the server calls the model",
    405: "check base_url and api: the server has no such route",
    413: "shorten the conversation",
    429: "too many requests: lower max_concurrent, or raise retries",
}

_TOO_LONG = re.compile(
    r"context[ _]?(length|window|size)|max_model_len|too many (input )?tokens|inputs?\W+tokens"
)
_QUOTED = re.compile(r"\W(messages|prompt|inputs)\W*:")  # The request itself is quoted: it names all options.
_OPTIONS = (
    "frequency_penalty", "max_tokens", "min_p", "presence_penalty", "repetition_penalty", "response_format",
    "seed", "stop", "suffix", "temperature", "top_k", "top_logprobs", "top_p",
)  # fmt: skip


class Rejected(GenerationError):
    """A response whose status is not a success.

    Attributes:
        status: the HTTP status.
        said: the body in lower case. It may quote the prompt, and must not be logged or shown.
        retry_after: seconds of its Retry-After header; None if it has none.
    """

    def __init__(self, text: str, status: int, said: str, retry_after: float | None) -> None:
        super().__init__(text)
        self.status = status
        self.said = said
        self.retry_after = retry_after


class Dropped(GenerationError):
    """A connection that failed, or ended before the answer did."""


def hint(status: int, said: str) -> str:
    """What to do about a rejection, by its status and its body in lower case, which is not quoted."""
    if 400 <= status < 500 and _TOO_LONG.search(said):
        return "the conversation is too long for it: shorten it, or lower max_new_tokens"
    if status in _HINTS:
        return _HINTS[status]
    if status >= 500:
        return "see its log"
    if status < 400:
        return "it redirects to another host, which is not followed: set base_url to that address"
    named = [option for option in _OPTIONS if option in said]
    if named and not _QUOTED.search(said):
        return f"leave out or change {' and '.join(named)}"
    return "leave out options that it may not know; the full response is logged at DEBUG"
