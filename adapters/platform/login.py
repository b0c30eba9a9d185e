"""Whether somebody is logged in to the platform, and whether it answers."""

import logging
from dataclasses import dataclass
from urllib.parse import urlsplit

import dtlpy as dl
from urllib3 import Timeout
from urllib3.exceptions import HTTPError

from adapters.platform.remote import pool_for

# Seconds; nobody waits longer to be told that there is no network.
TIMEOUT = Timeout(connect=3, read=5)


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
