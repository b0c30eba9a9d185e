"""Serves model folders over HTTP on loopback as a small model hub, with the refusals of the real one."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c0ffee" + 34 * "0"


@dataclass
class Hub:
    """What the hub serves, and the requests it got.

    Attributes:
        models: a folder for each hub id.
        private: hub ids that need a token, and the one they need.
        gated: hub ids whose terms have not been accepted.
        requests: method, path and authorization of every request.
    """

    models: Mapping[str, Path]
    private: Mapping[str, str]
    gated: frozenset[str]
    url: str = ""
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def find(self, path: str, authorization: str | None) -> tuple[int, str | None, bytes]:
        """Status, `X-Error-Code` and body for a path, in the words of the real hub."""
        owner, name, *rest = [*path.removeprefix("/api/models").strip("/").split("/"), ""]
        model = f"{owner}/{name}"
        token = self.private.get(model)
        if model not in self.models or (token and authorization != f"Bearer {token}"):
            return 401, "RepoNotFound", b""
        if model in self.gated:
            return 403, "GatedRepo", b""
        if rest == [""]:
            return 200, None, json.dumps({"id": model, "sha": COMMIT, "private": bool(token)}).encode()
        if rest[0] == "resolve" and rest[1] not in ("main", COMMIT):
            return 404, "RevisionNotFound", b""
        file = self.models[model].joinpath(*rest[2:])
        if rest[0] != "resolve" or not file.is_file():
            return 404, "EntryNotFound", b""
        return 200, None, file.read_bytes()


@contextmanager
def serve(
    models: Mapping[str, Path], private: Mapping[str, str] = {}, gated: frozenset[str] = frozenset()
) -> Iterator[Hub]:
    """Serves model folders under their hub ids, on a free port."""
    hub = Hub(models, private, gated)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            authorization = self.headers.get("Authorization")
            hub.requests.append((self.command, self.path, authorization))
            status, error, body = hub.find(self.path.split("?")[0], authorization)
            self.send_response(status)
            if error:
                self.send_header("X-Error-Code", error)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        hub.url = f"http://127.0.0.1:{server.server_port}"
        yield hub
        server.shutdown()
        thread.join()
