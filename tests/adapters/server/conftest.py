"""TinyTalk's server."""

from collections.abc import Iterator

import pytest

import models
from tests.helpers.servers.ours import Ours, serving


@pytest.fixture(scope="package")
def talk() -> Iterator[Ours]:
    """A server of TinyTalk, without a key."""
    with serving(models.load("tiny_talk", {"max_new_tokens": 32})) as server:
        yield server


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
