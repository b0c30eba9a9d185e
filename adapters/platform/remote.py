"""Requests to the platform, logged in as the SDK is.

The SDK's own client is not used, for three reasons. For each request it reads its caller's source code and
the environment's proxies, which takes some milliseconds of the interpreter from the model. It retries uploads
that may already be stored. And it logs the texts that it could not send.
"""

import json
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import dtlpy as dl
from urllib3 import BaseHTTPResponse, Timeout
from urllib3.exceptions import HTTPError

from adapters.items.stored import Record, size_of
from adapters.platform import bodies
from adapters.platform.errors import Refused, RemoteError, Unreadable
from adapters.platform.login import Login, pool_for
from engine import redaction
from engine.retry import retry_after

TRIES = 6
# Seconds before the first retry. Each further pause is twice as long; a random half of it may be left out.
PAUSE = 0.5
LONGEST_PAUSE = 60.0
# Seconds to connect, and between two parts of a response.
TIMEOUT = Timeout(connect=10, read=120)
PAGE = 1000


class _Temporary(Exception):
    """One failed try of a request that may be retried.

    Attributes:
        failure: the error to raise if it was the last try.
        pause: seconds that the platform asks to wait.
        unauthorized: whether the token was rejected.
    """

    def __init__(self, failure: RemoteError, pause: float = 0.0, unauthorized: bool = False) -> None:
        self.failure = failure
        self.pause = pause
        self.unauthorized = unauthorized


def ask(
    method: str,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    read: Callable[[BaseHTTPResponse], Any] = lambda response: response,
) -> Any:
    """Sends a request, up to `TRIES` times with growing pauses, and returns the parsed response.

    Args:
        read: parses a response with status 200 to 299. A ValueError means that the body is not the platform's
            (a proxy's page, a truncated body): the request is retried.

    Raises:
        Refused: status 300 to 499, except 401, 408 and 429, which are retried.
        Unreadable: the body of the last response could not be parsed.
        RemoteError: all tries failed, or the token is rejected or expired and cannot be renewed.
    """
    data = None if body is None else json.dumps(body).encode()
    failure = RemoteError("")
    renewed = False
    for attempt in range(TRIES):
        login = _login.headers()
        try:
            return _once(method, path, data, {**_JSON, **(headers or {}), **login}, read)
        except _Temporary as temporary:
            failure = temporary.failure
            pause = max(temporary.pause, PAUSE * 2**attempt * random.uniform(0.5, 1))  # noqa: S311
            unauthorized = temporary.unauthorized
        if unauthorized:
            if renewed:
                raise RemoteError(f"{failure}: log in again")
            renewed = True
            _login.renew(login)
        if attempt + 1 < TRIES:
            time.sleep(pause)
    raise failure


def _once(
    method: str,
    path: str,
    data: bytes | None,
    headers: Mapping[str, str],
    read: Callable[[BaseHTTPResponse], Any],
) -> Any:
    """Sends a request once.

    Raises:
        Refused: the platform rejected the request.
        _Temporary: no response, one that cannot be parsed, or status 401, 408, 429 or 5xx.
    """
    base = dl.client_api.base_gate_url
    pool = pool_for(base, dl.client_api.verify)
    try:
        response = pool.request(
            method, base + path, body=data, headers=headers, retries=False, timeout=TIMEOUT
        )
    except HTTPError as error:
        raise _Temporary(RemoteError(f"no answer: {type(error).__name__}")) from None
    status, pause = response.status, _asked_pause(response)
    if status < 300:
        try:
            return read(response)
        except (ValueError, RecursionError) as error:
            text = f"{status}, but its body cannot be read ({type(error).__name__})"
            raise _Temporary(Unreadable(text), pause) from None
    text = f"{status}: {_message(response)}"
    if status < 500 and status not in (401, 408, 429):
        raise Refused(text, status)
    raise _Temporary(RemoteError(text), pause, unauthorized=status == 401)


def describe_error(error: Exception) -> str:
    """An exception as text that quotes no request and no token; the original text is logged at DEBUG."""
    return redaction.why(error, [dl.client_api.token])


def record(item_id: str) -> Record:
    """An item's JSON, without its content.

    Raises:
        RemoteError: as `ask`.
    """
    found: Record = ask("GET", f"/items/{item_id}", read=bodies.record)
    return found


def item_of(url: str) -> str | None:
    """The id of the item whose content a URL of this platform is; None for any other URL."""
    base = dl.client_api.base_gate_url
    found = re.fullmatch(rf"{re.escape(base)}/items/([0-9A-Za-z_-]{{1,64}})/stream(\?.*)?", url)
    return found and found[1]


def content(item_id: str) -> bytes:
    """The bytes of an item.

    Raises:
        RemoteError: as `ask`.
    """
    found: bytes = ask("GET", f"/items/{item_id}/stream", headers={"x-dl-sanitize": "0"}).data
    return found


def text_content(item_id: str, size: int) -> bytes:
    """Downloads a text item, whose content cannot be validated by parsing it.

    A download of another length than `size` is repeated, each time with the size that the item then has.

    Args:
        size: the content's length in bytes; 0 accepts any length.

    Raises:
        RemoteError: as `ask`; or the length was wrong in all of `TRIES` downloads.
    """
    for _ in range(TRIES):
        found = content(item_id)
        if not size or len(found) == size:
            return found
        size = size_of(record(item_id))
    raise RemoteError(f"it should have {size} bytes, and has {len(found)}: upload it again")


def sized_content(item_id: str, size: int) -> bytes:
    """Downloads an item's content and checks its length.

    Content of another length (a proxy's page, a truncated body, a changed item) is downloaded again, and
    accepted if two downloads in a row are equal.

    Args:
        size: the expected length in bytes; 0 accepts any length.

    Raises:
        RemoteError: as `ask`; or all of `TRIES` downloads differed.
    """
    before = None
    for _ in range(TRIES):
        found = content(item_id)
        if not size or len(found) == size or found == before:
            return found
        before = found
    raise RemoteError(f"it should have {size} bytes, and has others each time")


def annotate(item_id: str, annotations: Sequence[Record]) -> list[Record]:
    """Stores annotations on an item and returns them with their ids.

    Raises:
        RemoteError: as `ask`. Some of the annotations may then be stored, or all of them twice.
    """

    def stored(response: BaseHTTPResponse) -> list[Record]:
        found = bodies.records(response.json())
        if len(found) != len(annotations):
            raise ValueError("other annotations than were sent")
        return found

    found: list[Record] = ask("POST", f"/items/{item_id}/annotations", list(annotations), read=stored)
    return found


def pages(dataset_id: str, query: Record) -> Iterator[list[Record]]:
    """Yields the items or annotations of a dataset that a query selects, page by page, sorted by id.

    Each page is requested when it is needed, and starts after the last id of the page before it. Records that
    are added or removed meanwhile therefore shift no other record.

    Raises:
        RemoteError: as `ask`; or the same page came twice.
    """
    conditions = query.get("filter") or {}
    last: str | None = None
    while True:
        after = [] if last is None else [{"id": {"$gt": last}}]
        body = {**query, "sort": {"id": "ascending"}, "page": 0, "pageSize": PAGE}
        body["filter"] = {**conditions, "$and": [*conditions.get("$and", []), *after]}
        items, more = ask("POST", f"/datasets/{dataset_id}/query", body, read=bodies.page)
        if items and items[-1]["id"] == last:
            raise RemoteError("the platform lists the same page again and again")
        if items:
            yield items
        if not more:
            return
        last = items[-1]["id"]


def filters(given: Any) -> dl.Filters:
    """Filters as the SDK has them, whether they are given so, as JSON, or not at all."""
    if isinstance(given, dl.Filters):
        return given
    return dl.Filters(custom_filter=given) if given else dl.Filters()


def count(dataset_id: str, query: Record) -> int:
    """The number of records of a dataset that a query selects.

    Raises:
        RemoteError: as `ask`.
    """
    body = {**query, "page": 0, "pageSize": 0}
    found: int = ask("POST", f"/datasets/{dataset_id}/query", body, read=bodies.count)
    return found


def remove(dataset_id: str, annotation_ids: Sequence[str]) -> None:
    """Removes annotations by their ids.

    Raises:
        RemoteError: as `ask`; or some of them still exist after `TRIES` requests.
    """
    for start in range(0, len(annotation_ids), PAGE):
        ids = list(annotation_ids[start : start + PAGE])
        named: Record = {"resource": "annotations", "filter": {"$and": [{"id": {"$in": ids}}]}}
        for _ in range(TRIES):
            said = ask("POST", f"/datasets/{dataset_id}/query", {**named, "delete": True}, read=bodies.if_any)
            # The response to this request is not documented, and may be empty.
            if isinstance(said, dict) or not any(pages(dataset_id, named)):
                break
        else:
            raise RemoteError(f"some of them still exist after {TRIES} requests to remove them")


_login = Login()
_JSON = {"Content-Type": "application/json"}


def _asked_pause(response: BaseHTTPResponse) -> float:
    """Seconds to wait by the response's `Retry-After`, at most `LONGEST_PAUSE`; 0 without that header."""
    return min(retry_after(response.headers.get("Retry-After")) or 0.0, LONGEST_PAUSE)


def _message(response: BaseHTTPResponse) -> str:
    """The reason of a failure in our own words, since the platform's may quote the request."""
    status = response.status
    hint = _HINTS.get(status, "server error" if status >= 500 else "it rejected the request")
    codes = redaction.codes(response.data, [dl.client_api.token], status)
    return f"{hint} ({codes})" if codes else f"{hint}; the full response is logged at DEBUG"


_HINTS = {
    401: "log in again",
    403: "this login may not do that",
    404: "not found (deleted, or a wrong id)",
    413: "the request is too large",
    429: "too many requests",
}
