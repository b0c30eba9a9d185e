"""Fixtures that make endpoint engines and the misbehaving server that they ask."""

from collections.abc import Callable, Iterator

import pytest

from engine.backends.endpoint import EndpointEngine, wire
from engine.options import EndpointOptions, GenerationOptions
from engine.types import Answer, Request
from tests.helpers.servers.misbehaving import Server

Engines = Callable[..., EndpointEngine]
SECRET = "hf_secret"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token, and no server."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_API_BASE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HUGGINGFACE_TOKEN", SECRET)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture
def engines(server: Server) -> Engines:
    """Makes engines that ask the server; a few seconds are more than they need."""

    def make(**options) -> EndpointEngine:
        where = {} if "app_id" in options else {"base_url": server.url}
        return EndpointEngine(EndpointOptions(**{"model_name": "m", "timeout": 20} | where | options))

    return make


@pytest.fixture
def engine(engines: Engines) -> EndpointEngine:
    return engines()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that engines would have waited."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr(wire, "sleep", sleep)
    return waits


def plain(prompt: str | tuple[int, ...], **options) -> Request:
    """A request with a plain prompt."""
    return Request((), GenerationOptions(**options), prompt)


def failure(engine: EndpointEngine, request: Request) -> str:
    """Why the only request has no answer."""
    [answer] = engine.generate([request])
    assert answer == Answer.failed(answer.error)
    return str(answer.error)
