"""Requests to the platform, logged in as the SDK is.

The SDK's own client looks up the caller's source and the proxies of the environment for each request, which
takes the interpreter from the model for some milliseconds; it sends again what was stored but not confirmed,
without saying so; and it logs the texts that it could not send. So requests are sent here, with its token.
"""

import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi
import dtlpy as dl
from urllib3 import BaseHTTPResponse, PoolManager, ProxyManager, Timeout
from urllib3.exceptions import HTTPError

from adapters.items.stored import Record, size_of
from adapters.platform import bodies
from engine import redaction
from engine.errors import AdapterError

TRIES = 6
# Seconds before the second try; twice as many before each one after, and up to a half less by chance.
PAUSE = 0.5
LONGEST_PAUSE = 60.0
# Seconds to connect, and between two pieces of an answer.
TIMEOUT = Timeout(connect=10, read=120)
# Seconds between two looks at the token, which the SDK renews a minute before it ends.
TOKEN_CHECK = 10.0
PAGE = 1000
CONNECTIONS = 64


class RemoteError(AdapterError):
    """The platform did not do what it was asked; the text has none of its words but codes."""


class Refused(RemoteError):
    """Nor will it, as it was asked; other than where it was away, less at a time may help."""


class Unreadable(RemoteError):
    """What it answers is nothing that can be read, each time: of less at a time, some may be."""


def ask(
    method: str,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    read: Callable[[BaseHTTPResponse], Any] = lambda response: response,
) -> Any:
    """The platform's answer to a request, sent again with growing pauses where that can help.

    Args:
        read: makes of a response what is returned. One on which it raises a ValueError is no answer of the
            platform: a proxy's page, or half of what was sent.

    Raises:
        Refused: it is refused for good.
        Unreadable: its last answer was none.
        RemoteError: all tries failed, or the token ended and cannot be renewed.
    """
    base = dl.client_api.base_gate_url
    pool = pool_for(base, dl.client_api.verify)
    data = None if body is None else json.dumps(body).encode()
    failure = RemoteError("")
    renewed = False
    for attempt in range(TRIES):
        login = _login.headers()
        sent = {**_JSON, **(headers or {}), **login}
        pause = PAUSE * 2**attempt * random.uniform(0.5, 1)  # noqa: S311
        try:
            response = pool.request(
                method, base + path, body=data, headers=sent, retries=False, timeout=TIMEOUT
            )
        except HTTPError as error:
            failure = RemoteError(f"no answer: {type(error).__name__}")
        else:
            if response.status < 300:
                try:
                    return read(response)
                except (ValueError, RecursionError) as error:
                    said = f"{response.status}, but its body cannot be read ({type(error).__name__})"
                    failure = Unreadable(said)
            else:
                failure = RemoteError(f"{response.status}: {_message(response)}")
            if response.status == 401:
                if renewed:
                    raise RemoteError(f"{failure}: log in again")
                renewed = True
                _login.renew(login)
            elif 300 <= response.status < 500 and response.status not in (408, 429):
                raise Refused(str(failure))
            pause = max(pause, _asked_pause(response))
        if attempt + 1 < TRIES:
            time.sleep(pause)
    raise failure


def why(error: Exception) -> str:
    """What went wrong, in our words: those of the SDK quote what was sent, and are in the log at DEBUG."""
    return redaction.why(error, [dl.client_api.token])


def record(item_id: str) -> Record:
    """What the platform knows of an item.

    Raises:
        RemoteError: as `ask`.
    """
    found: Record = ask("GET", f"/items/{item_id}", read=bodies.record)
    return found


def content(item_id: str) -> bytes:
    """The bytes of an item.

    Raises:
        RemoteError: as `ask`.
    """
    found: bytes = ask("GET", f"/items/{item_id}/stream", headers={"x-dl-sanitize": "0"}).data
    return found


def text_content(item_id: str, size: int) -> bytes:
    """As `sized_content`, of what any bytes would do for: a text is not told from a proxy's page by its form.

    Raises:
        RemoteError: as `ask`; or its bytes are not as many as the platform says, even when it is asked anew.
    """
    for _ in range(TRIES):
        found = content(item_id)
        if not size or len(found) == size:
            return found
        size = size_of(record(item_id))
    raise RemoteError(f"it should have {size} bytes, and has {len(found)}: upload it again")


def sized_content(item_id: str, size: int) -> bytes:
    """The bytes of an item that is said to have so many; 0 where that is not known.

    Others are a proxy's page, or a part, or the item has changed: they are asked for until the same come
    twice.

    Raises:
        RemoteError: as `ask`; or they are others each time.
    """
    before = None
    for _ in range(TRIES):
        found = content(item_id)
        if not size or len(found) == size or found == before:
            return found
        before = found
    raise RemoteError(f"it should have {size} bytes, and has others each time")


def annotate(item_id: str, annotations: Sequence[Record]) -> list[Record]:
    """Stores annotations on an item, and returns them as the platform has them.

    Raises:
        RemoteError: as `ask`; some of them may be there, or all of them twice.
    """

    def stored(response: BaseHTTPResponse) -> list[Record]:
        found = bodies.records(response.json())
        if len(found) != len(annotations):
            raise ValueError("other annotations than were sent")
        return found

    found: list[Record] = ask("POST", f"/items/{item_id}/annotations", list(annotations), read=stored)
    return found


def pages(dataset_id: str, query: Record) -> Iterator[list[Record]]:
    """What a query over a dataset's items or annotations finds, page by page in the order of the ids.

    Each page is asked for when the one before has been taken, and goes on after its last id: what happens to
    the records meanwhile shifts none of the others.

    Raises:
        RemoteError: as `ask`; or the pages do not go on.
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


def count(dataset_id: str, query: Record) -> int:
    """How much a query over a dataset finds.

    Raises:
        RemoteError: as `ask`.
    """
    body = {**query, "page": 0, "pageSize": 0}
    found: int = ask("POST", f"/datasets/{dataset_id}/query", body, read=bodies.count)
    return found


def remove(dataset_id: str, annotation_ids: Sequence[str]) -> None:
    """Removes annotations by their ids.

    Raises:
        RemoteError: as `ask`; or they are still there.
    """
    for start in range(0, len(annotation_ids), PAGE):
        ids = list(annotation_ids[start : start + PAGE])
        named: Record = {"resource": "annotations", "filter": {"$and": [{"id": {"$in": ids}}]}}
        for _ in range(TRIES):
            said = ask("POST", f"/datasets/{dataset_id}/query", {**named, "delete": True}, read=bodies.if_any)
            # What the platform says to this is not documented, nor that it says anything.
            if isinstance(said, dict) or not any(pages(dataset_id, named)):
                break
        else:
            raise RemoteError("they are still there, however often they are removed")


class _Login:
    """The token of the SDK, looked at now and then: a look takes time, and one thread is to renew it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = 0.0

    def headers(self) -> dict[str, str]:
        """What says who is asking.

        Raises:
            RemoteError: the token has ended, and the SDK cannot renew it.
        """
        with self._lock:
            if time.monotonic() >= self._next:
                if dl.client_api.token_expired():
                    raise RemoteError("the token has expired and cannot be renewed: log in again")
                self._next = time.monotonic() + TOKEN_CHECK
            return self._headers()

    def renew(self, refused: Mapping[str, str]) -> None:
        """Has the token renewed, if it can be and is still the one that was refused."""
        with self._lock:
            if self._headers() == refused:
                dl.client_api.renew_token_method()

    def _headers(self) -> dict[str, str]:
        return {**dl.client_api.default_headers, **dl.client_api.auth}


_login = _Login()
_JSON = {"Content-Type": "application/json"}


@cache
def pool_for(base: str, verify: bool) -> PoolManager:
    """Connections that are kept, by the way to the platform that the environment names."""
    target = urlsplit(base)
    proxy = None if proxy_bypass(target.netloc) else getproxies().get(target.scheme)
    trusted = os.environ.get("REQUESTS_CA_BUNDLE") or certifi.where()
    settings: dict[str, Any] = {"maxsize": CONNECTIONS}
    settings |= {"ca_certs": trusted} if verify else {"cert_reqs": "CERT_NONE"}
    return ProxyManager(proxy, **settings) if proxy else PoolManager(**settings)


def _asked_pause(response: BaseHTTPResponse) -> float:
    """The seconds that the platform asks to wait."""
    asked = response.headers.get("Retry-After", "")
    return min(float(asked), LONGEST_PAUSE) if asked.isdecimal() else 0.0


def _message(response: BaseHTTPResponse) -> str:
    """Why, in our words: the platform's may quote what it was sent."""
    status = response.status
    hint = _HINTS.get(status, "it failed" if status >= 500 else "it does not take this")
    codes = redaction.codes(response.data, [dl.client_api.token], status)
    return f"{hint} ({codes})" if codes else f"{hint}; its words are in the log at DEBUG"


_HINTS = {
    401: "log in again",
    403: "this login may not do that",
    404: "it is not there",
    413: "it is too large",
    429: "it is asked too often",
}
