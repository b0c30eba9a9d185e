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
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi
import dtlpy as dl
from urllib3 import BaseHTTPResponse, PoolManager, ProxyManager, Timeout
from urllib3.exceptions import HTTPError

from engine import peers
from engine.errors import AdapterError

Record = dict[str, Any]

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


def ask(
    method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
) -> BaseHTTPResponse:
    """The platform's answer to a request, sent again with growing pauses where that can help.

    Raises:
        Refused: it is refused for good.
        RemoteError: all tries failed, or the token ended and cannot be renewed.
    """
    base = dl.client_api.base_gate_url
    pool = _pool(base, dl.client_api.verify)
    data = None if body is None else json.dumps(body).encode()
    reason = ""
    for attempt in range(TRIES):
        sent = {**_JSON, **(headers or {}), **_login.headers()}
        pause = PAUSE * 2**attempt * random.uniform(0.5, 1)  # noqa: S311
        try:
            response = pool.request(
                method, base + path, body=data, headers=sent, retries=False, timeout=TIMEOUT
            )
        except HTTPError as error:
            reason = f"no answer: {type(error).__name__}"
        else:
            if response.status < 300:
                return response
            reason = f"{response.status}: {_message(response)}"
            if response.status < 500 and response.status not in (408, 429):
                raise Refused(reason)
            pause = max(pause, _asked_pause(response))
        if attempt + 1 < TRIES:
            time.sleep(pause)
    raise RemoteError(reason)


def record(item_id: str) -> Record:
    """What the platform knows of an item.

    Raises:
        RemoteError: as `ask`.
    """
    found: Record = ask("GET", f"/items/{item_id}").json()
    return found


def content(item_id: str) -> bytes:
    """The bytes of an item.

    Raises:
        RemoteError: as `ask`.
    """
    return ask("GET", f"/items/{item_id}/stream", headers={"x-dl-sanitize": "0"}).data


def pages(dataset_id: str, query: Record) -> Iterator[list[Record]]:
    """What a query over a dataset's items or annotations finds, page by page in the order of the ids.

    Each page is asked for when the one before has been taken, and goes on after its last id: what happens to
    the records meanwhile shifts none of the others.

    Raises:
        RemoteError: as `ask`.
    """
    conditions = query.get("filter") or {}
    last: list[Record] = []
    while True:
        body = {**query, "sort": {"id": "ascending"}, "page": 0, "pageSize": PAGE}
        body["filter"] = {**conditions, "$and": [*conditions.get("$and", []), *last]}
        found = ask("POST", f"/datasets/{dataset_id}/query", body).json()
        if found["items"]:
            yield found["items"]
        if not found["hasNextPage"]:
            return
        last = [{"id": {"$gt": found["items"][-1]["id"]}}]


def count(dataset_id: str, query: Record) -> int:
    """How much a query over a dataset finds.

    Raises:
        RemoteError: as `ask`.
    """
    body = {**query, "page": 0, "pageSize": 0}
    return int(ask("POST", f"/datasets/{dataset_id}/query", body).json()["totalItemsCount"])


def remove(dataset_id: str, annotation_ids: Sequence[str]) -> None:
    """Removes annotations by their ids.

    Raises:
        RemoteError: as `ask`.
    """
    for start in range(0, len(annotation_ids), PAGE):
        ids = list(annotation_ids[start : start + PAGE])
        body = {"resource": "annotations", "filter": {"$and": [{"id": {"$in": ids}}]}, "delete": True}
        ask("POST", f"/datasets/{dataset_id}/query", body)


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
            return {**dl.client_api.default_headers, **dl.client_api.auth}


_login = _Login()
_JSON = {"Content-Type": "application/json"}


@cache
def _pool(base: str, verify: bool) -> PoolManager:
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
    codes = peers.codes(response.data, [dl.client_api.token], status)
    return f"{hint} ({codes})" if codes else f"{hint}; its words are in the log at DEBUG"


_HINTS = {
    401: "log in again",
    403: "this login may not do that",
    404: "it is not there",
    413: "it is too large",
    429: "it is asked too often",
}
