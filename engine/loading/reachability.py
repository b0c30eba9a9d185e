"""Whether the hub is reachable, by one short try: the hub library retries each file for half a minute."""

import socket
import time
from functools import lru_cache
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from huggingface_hub import constants, is_offline_mode

# Seconds to wait for a connection, and for how long its outcome is taken to hold.
TIMEOUT, VALID = 5, 30


def hub_is_reachable() -> bool:
    """Whether the hub accepts a connection; True without a try behind a proxy and in offline mode."""
    target = urlsplit(constants.ENDPOINT)
    host = target.hostname or ""
    if is_offline_mode() or (getproxies().get(target.scheme) and not proxy_bypass(host)):
        return True
    return _accepts(host, target.port or {"http": 80}.get(target.scheme, 443), int(time.monotonic() // VALID))


@lru_cache(maxsize=1)
def _accepts(host: str, port: int, _period: int) -> bool:
    try:
        with socket.create_connection((host, port), TIMEOUT):
            return True
    except OSError:
        return False
