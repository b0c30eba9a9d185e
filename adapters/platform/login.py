"""The SDK's login: its token and its connections, and whether the platform answers."""

import logging
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi
import dtlpy as dl
from urllib3 import PoolManager, ProxyManager, Timeout
from urllib3.exceptions import HTTPError

from adapters.platform.errors import RemoteError

# Seconds; nobody waits longer to be told that there is no network.
TIMEOUT = Timeout(connect=3, read=5)
# Seconds between two checks of the token. The SDK renews it a minute before it expires.
TOKEN_CHECK = 10.0
POOL_SIZE = 64


@dataclass(frozen=True, slots=True)
class State:
    """The platform as it is seen from here.

    Attributes:
        environment: its address.
        logged_in: whether the SDK has a token that has not ended.
        reachable: whether it answers at all.
        reach: that in words.
    """

    environment: str
    logged_in: bool
    reachable: bool
    reach: str


def state() -> State:
    """Looks at the SDK's login, and asks the platform for an answer of any kind, without the token."""
    logging.getLogger("dtlpy").setLevel(logging.CRITICAL)  # It logs at length that there is no token.
    address = dl.environment()
    try:
        response = pool_for(address, dl.client_api.verify).request(
            "GET", address, timeout=TIMEOUT, retries=False
        )
        reach = f"{urlsplit(address).hostname} answers ({response.status})"
        reachable = True
    except HTTPError as error:
        reach = f"{urlsplit(address).hostname} does not answer ({type(error).__name__})"
        reachable = False
    return State(address, not dl.token_expired(), reachable, reach)


class Login:
    """The SDK's token: checked every `TOKEN_CHECK` seconds, as a check is slow, and renewed by one thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = 0.0

    def headers(self) -> dict[str, str]:
        """The headers that authenticate a request.

        Raises:
            RemoteError: the token has expired, and the SDK cannot renew it.
        """
        with self._lock:
            if time.monotonic() >= self._next:
                if dl.client_api.token_expired():
                    raise RemoteError("the token has expired and cannot be renewed: log in again")
                self._next = time.monotonic() + TOKEN_CHECK
            return self._headers()

    def renew(self, rejected: Mapping[str, str]) -> None:
        """Renews the token, unless another thread has renewed it since the request with these headers."""
        with self._lock:
            if self._headers() == rejected:
                dl.client_api.renew_token_method()

    def _headers(self) -> dict[str, str]:
        return {**dl.client_api.default_headers, **dl.client_api.auth}


@cache
def pool_for(base: str, verify: bool) -> PoolManager:
    """The connection pool for the platform's address, through the environment's proxy if it names one."""
    target = urlsplit(base)
    proxy = None if proxy_bypass(target.netloc) else getproxies().get(target.scheme)
    trusted = os.environ.get("REQUESTS_CA_BUNDLE") or certifi.where()
    settings: dict[str, Any] = {"maxsize": POOL_SIZE}
    settings |= {"ca_certs": trusted} if verify else {"cert_reqs": "CERT_NONE"}
    return ProxyManager(proxy, **settings) if proxy else PoolManager(**settings)
