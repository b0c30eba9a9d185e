"""Downloads from other hosts: an allow-list, https, public addresses, and limits on size and time.

No other code requests other hosts for an item. The connection goes to the address that was checked, so that
DNS rebinding has no effect. Each redirect goes through the same checks.
"""

import contextlib
import http.client
import ipaddress
import re
import socket
import ssl
import threading
from collections.abc import Collection
from urllib.parse import urljoin, urlsplit

from engine.errors import PromptError

REDIRECTS = 3
SECONDS = 20.0


def fetch(url: str, hosts: Collection[str], limit: int, seconds: float = SECONDS) -> bytes:
    """Downloads a URL, following up to `REDIRECTS` redirects.

    Args:
        hosts: names of the allowed hosts, exact: no subdomains, no patterns.
        limit: bytes at most.
        seconds: time limit per host, from the connection to the last byte.

    Raises:
        PromptError: the URL is not allowed, or the download failed. The text has the host, never the URL,
            which may be signed.
    """
    for _ in range(REDIRECTS + 1):
        host, path = _allowed(url, hosts)
        found = _get(host, path, limit, seconds)
        if isinstance(found, bytes):
            return found
        url = _joined(url, found)
    raise PromptError(f"{host} redirects more than {REDIRECTS} times")


def _joined(url: str, to: str) -> str:
    try:
        return urljoin(url, to)
    except ValueError:
        return ""  # An invalid URL: `_allowed` rejects it.


def _allowed(url: str, hosts: Collection[str]) -> tuple[str, str]:
    """Host and path of an allowed URL. Raises a PromptError for any other."""
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError:
        raise PromptError("a link is not a web address") from None
    if parts.scheme != "https" or port not in (None, 443) or parts.username is not None:
        raise PromptError("links are followed by https at port 443 only, and without a user's name")
    if not host or host not in {name.lower().rstrip(".") for name in hosts}:
        raise PromptError(f"links to {host!r} are not followed: allowed_hosts does not have it")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not re.fullmatch(r"[!-~]+", path):
        raise PromptError(f"a link to {host} has characters that no address has")
    return host, path


def _address(host: str) -> str:
    """An IP address of a host. Raises a PromptError unless all its addresses are public."""
    try:
        found = socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise PromptError(f"{host} has no address") from None
    addresses = [str(entry[4][0]) for entry in found]
    if not addresses or not all(map(_public, addresses)):
        raise PromptError(f"{host} lies in a private network: links to it are not followed")
    return addresses[0]


def _public(address: str) -> bool:
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        # An embedded IPv4 address: mapped, 6to4 or Teredo.
        within = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if within:
            return _public(str(within))
        if ip not in _UNICAST:  # Outside it are translated and local addresses.
            return False
    return ip.is_global and not ip.is_multicast


_UNICAST = ipaddress.ip_network("2000::/3")


class _Connection(http.client.HTTPSConnection):
    """A connection to one address of a host, without a proxy, with a time limit for the whole download."""

    def __init__(self, host: str, address: str, seconds: float) -> None:
        self._tls = ssl.create_default_context()
        super().__init__(host, timeout=seconds, context=self._tls)
        self._address = address
        self._wire: ssl.SSLSocket | None = None
        self.late = False
        # A socket's own timeout restarts with each byte.
        self._end = threading.Timer(seconds, self._cut)
        self._end.daemon = True

    def connect(self) -> None:
        """Connects to the address and checks the certificate against the host's name."""
        self._end.start()
        raw = socket.create_connection((self._address, 443), self.timeout)
        self.sock = self._wire = self._tls.wrap_socket(
            raw, server_hostname=self.host, do_handshake_on_connect=False
        )
        self._wire.do_handshake()

    def end(self) -> None:
        """Closes connection and timer. Not `close`: http.client calls that before the body is read."""
        self._end.cancel()
        self.close()

    def _cut(self) -> None:
        self.late = True
        if self._wire is not None:
            with contextlib.suppress(OSError):
                self._wire.shutdown(socket.SHUT_RDWR)


def _get(host: str, path: str, limit: int, seconds: float) -> bytes | str:
    """The content at a path as bytes, or the redirect's location as str."""
    connection = _Connection(host, _address(host), seconds)
    try:
        connection.request("GET", path, headers={"Accept-Encoding": "identity"})
        response = connection.getresponse()
        location = response.headers.get("Location")
        if response.status in (301, 302, 303, 307, 308) and location:
            return location
        if response.status != 200:
            raise PromptError(f"{host} answers {response.status}")
        content = response.read(limit + 1)
        if len(content) > limit:
            raise PromptError(f"{host} sends more than {limit} bytes")
        if response.length or connection.late:
            raise PromptError(f"{host} broke off, or took more than {seconds:g} seconds")
        return content
    except (OSError, http.client.HTTPException) as error:
        # The socket's timeout equals the time limit, so either may expire first.
        late = connection.late or isinstance(error, TimeoutError)
        reason = f": it took more than {seconds:g} seconds" if late else ""
        raise PromptError(f"{host} cannot be asked ({type(error).__name__}){reason}") from None
    finally:
        connection.end()
