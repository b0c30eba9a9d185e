"""A model whose answers a function makes, under every name."""

from collections.abc import Callable

import pytest

from adapters import registry
from adapters.hugging import HuggingAdapter
from engine.types import Request
from tests.fakes import FakeEngine

Reply = Callable[[Request], str]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Callable[[Reply], FakeEngine]:
    """Lets every model be one whose answers a function makes."""

    def make(reply: Reply) -> FakeEngine:
        adapter = HuggingAdapter({"model_name": "quick"})
        adapter._engine = FakeEngine(reply)
        monkeypatch.setattr(registry, "load", lambda *_: adapter)
        return adapter._engine

    return make
