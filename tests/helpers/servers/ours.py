"""Our own server in a thread of the test's process, and plain HTTP requests to it."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import uvicorn

from adapters.hugging import HuggingAdapter
from adapters.server.app import create
from adapters.server.connections import configured
from engine.contract import Engine


class Reply(NamedTuple):
    """A response."""

    status: int
    headers: dict[str, str]
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)

    @property
    def error(self) -> dict[str, Any]:
        return self.body["error"]


class Ours(NamedTuple):
    """A server that runs."""

    server: uvicorn.Server
    port: int
    thread: threading.Thread

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> socket.socket:
        """A connection on which nothing was sent yet."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def post(self, path: str, body: Any, **headers: str) -> Reply:
        """Sends a body: bytes as they are, else as JSON."""
        return self._ask("POST", path, body if isinstance(body, bytes) else json.dumps(body), headers)

    def get(self, path: str, **headers: str) -> Reply:
        return self._ask("GET", path, None, headers)

    def _ask(self, method: str, path: str, body: Any, headers: dict[str, str]) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, named, response.read().decode())
        finally:
            connection.close()


@contextmanager
def serving(adapter: HuggingAdapter, **options) -> Iterator[Ours]:
    """Serves a model at a free port."""
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listening:
        port = listening.getsockname()[1]
        server = uvicorn.Server(configured(create(adapter, **options), "127.0.0.1", port))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield Ours(server, port, thread)
        finally:
            server.should_exit = True
            thread.join()


def adapter_of(engine: Engine, **configuration) -> HuggingAdapter:
    """A model whose engine is given."""
    adapter = HuggingAdapter({"model_name": "tiny"} | configuration)
    adapter._engine = engine
    return adapter


def request_bytes(body: Any, path: str = "/v1/chat/completions", length: int | None = None) -> bytes:
    """A request as it is sent; `length` is what its head says, if not the truth."""
    sent = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length or len(sent)}\r\n\r\n"
    return head.encode() + sent
