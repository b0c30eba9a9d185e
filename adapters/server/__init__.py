"""An HTTP server with OpenAI's routes for one model. It needs the extra `server`.

Importing this imports neither FastAPI nor torch.
"""

from __future__ import annotations

import ipaddress
import resource
import socket
import threading
from typing import TYPE_CHECKING, Any

from engine.errors import ConfigurationError

if TYPE_CHECKING:
    import uvicorn

    from adapters.hugging import HuggingAdapter


def serve(
    adapter: HuggingAdapter,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    open_to_all: bool = False,
    max_requests: int = 512,
) -> None:
    """Serves a loaded model until SIGINT or SIGTERM; answers that have begun may then end, for 30 seconds.

    Args:
        host: the address to listen at.
        api_key: clients have to send it as a bearer token; None: no key is needed.
        open_to_all: whether other machines may be served without a key.
        max_requests: answers that may run and wait at a time; a client beyond that gets status 429.

    Raises:
        ConfigurationError: an address that other machines reach, without a key, or that cannot be listened
            at; or a missing package.
    """
    check_exposure(host, api_key, open_to_all)
    check_address(host, port)
    _server(adapter, host, port, api_key=api_key, max_requests=max_requests).run()


def serve_in_background(adapter: HuggingAdapter, *, host: str, port: int) -> None:
    """Serves a loaded model in a thread, to anyone who reaches the address, until the process ends.

    Raises:
        ConfigurationError: a missing package, or an address that is in use.
    """
    server = _server(adapter, host, port)
    thread = threading.Thread(target=server.run, name="server", daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.05)
        if not thread.is_alive():
            raise ConfigurationError(f"the server does not start at {host}:{port}: is the port in use?")


def _server(adapter: HuggingAdapter, host: str, port: int, **options: Any) -> uvicorn.Server:
    try:
        import uvicorn

        from adapters.server.app import create
        from adapters.server.connections import configured
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"the server needs the package {error.name}: pip install fastapi uvicorn prometheus-client"
        ) from None
    _allow_many_connections()
    return uvicorn.Server(configured(create(adapter, **options), host, port))


def check_exposure(host: str, api_key: str | None, open_to_all: bool) -> None:
    """Refuses an address that other machines reach, if anyone may ask there.

    Raises:
        ConfigurationError: neither a key, nor `open_to_all`, nor an address of this machine alone.
    """
    if api_key == "":
        raise ConfigurationError("the API key is empty: give one, or none at all")
    if api_key is None and not open_to_all and not is_loopback(host):
        raise ConfigurationError(
            f"{host} is reached from other machines, and anyone could ask: set an API key (--api-key), "
            "or allow that (--open-to-all)"
        )


def check_address(host: str, port: int) -> None:
    """Refuses an address at which a server cannot listen now.

    Raises:
        ConfigurationError: the port is in use or no port, or this machine has no such address.
    """
    try:
        family, *_, address = min(
            socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        )  # IPv4 before IPv6.
        with socket.socket(family) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((address[0], port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigurationError(
            f"the server cannot listen at {host}:{port} ({reason}): choose another --port, or --host"
        ) from None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _allow_many_connections() -> None:
    """Raises this process's limit of open files, each connection being one, as far as it may."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
