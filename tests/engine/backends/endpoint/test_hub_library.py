"""The hub library still sends its requests by the private method that `wire.Client` overrides.

If one of these fails after an update of huggingface_hub, requests would leave without our limits on size and
time, and with errors that quote prompts: change `Client._inner_post` in engine/backends/endpoint/wire.py to
override what sends them now.
"""

import asyncio
import importlib.util
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from huggingface_hub import AsyncInferenceClient

from engine.backends.endpoint import wire
from engine.backends.endpoint.wire import Client, Server
from engine.errors import ConfigurationError
from engine.options import EndpointOptions

CALLS: dict[str, Callable[[Client], Any]] = {
    "chat_completion": lambda client: client.chat_completion([{"role": "user", "content": "Hi"}]),
    "text_generation": lambda client: client.text_generation("Hi", model="http://127.0.0.1:9/generate"),
    "feature_extraction": lambda client: client.feature_extraction("Hi", model="http://127.0.0.1:9/embed"),
}


class _Reached(Exception):
    pass


@pytest.mark.parametrize("call", CALLS)
def test_each_call_reaches_the_method_with_url_body_and_headers(monkeypatch: pytest.MonkeyPatch, call: str):
    found: list[Any] = []

    async def inner_post(self: Client, request_parameters: Any, *, stream: bool = False) -> Any:
        found.append(request_parameters)
        raise _Reached

    async def ask() -> None:
        server = Server(EndpointOptions(base_url="http://127.0.0.1:9"))
        async with Client(server, wire.httpx.AsyncClient()) as client:
            await CALLS[call](client)

    monkeypatch.setattr(Client, "_inner_post", inner_post)
    with pytest.raises(_Reached):
        asyncio.run(ask())
    [parameters] = found
    assert parameters.url.startswith("http://127.0.0.1:9/")
    assert parameters.json
    assert isinstance(parameters.headers, dict)


def test_the_overridden_method_takes_what_ours_takes():
    ours, theirs = (inspect.signature(kind._inner_post) for kind in (Client, AsyncInferenceClient))
    assert list(ours.parameters) == list(theirs.parameters)


def test_a_library_without_that_method_is_refused_when_the_backend_is_imported(
    monkeypatch: pytest.MonkeyPatch,
):
    with monkeypatch.context() as changed:
        changed.delattr(AsyncInferenceClient, "_inner_post")
        spec = importlib.util.spec_from_file_location("another_wire", wire.__file__)
        with pytest.raises(ConfigurationError, match=r"install the version that constraints\.txt names"):
            spec.loader.exec_module(importlib.util.module_from_spec(spec))
