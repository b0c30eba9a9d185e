"""`transformers serve` in a thread of the test's process."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import uvicorn
from transformers.cli.serve import Serve


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The URL of a server of the model in a folder, by the folder's path as its name."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        with mock.patch.object(
            uvicorn.Server, "run"
        ):  # It would run here and now, at a port of its own choice.
            server = Serve(force_model=str(folder), device="cpu").server
        # Who asks before it listens waits in the socket's queue.
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
