"""The adapter's own time: reading items, building conversations and annotations, around the engine's."""

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import dtlpy as dl
import torch

from adapters.dataloop import ModelAdapter
from adapters.hugging import HuggingAdapter
from benchmarks import models, workload
from benchmarks.machine import Machine
from benchmarks.own import ours
from benchmarks.rounds import Times, interleave, ratio
from benchmarks.workload import Conversation
from engine.backends.local import LocalEngine
from engine.contract import Engine, Follow
from engine.types import Chunk, Request

_END = object()


@dataclass(frozen=True, slots=True)
class Size:
    """How much is run."""

    rounds: int = 3
    items: int = 64
    answer_tokens: int = 32
    changes: dict[str, int] = field(default_factory=dict)


FULL = EMULATED = Size()
QUICK = Size(changes={"num_hidden_layers": 2}, answer_tokens=8)


def run(size: Size, here: Machine) -> dict[str, float]:
    """What the ModelAdapter adds to the engine's time, as a share of it, and seconds of both.

    The share is taken within each prediction: between two of them the machine varies by more.

    Raises:
        AssertionError: the adapter's answers are not the engine's.
    """
    loaded = models.load("L", torch.float32, size.changes)
    given = [
        [workload.Turn(turn.question, size.answer_tokens) for turn in conversation]
        for conversation in workload.conversations(size.items, 1, loaded.model.config.vocab_size)
    ]
    engine = Timed(LocalEngine(loaded))
    adapter = model_adapter(engine, size.answer_tokens)
    items = [Stored(f"{i}", content(conversation)) for i, conversation in enumerate(given)]
    times = interleave(
        {
            "engine": lambda: [[workload.words(answer) for answer in found] for found in ours(engine, given)],
            "adapter": lambda: predicted(adapter, items),
        },
        size.rounds,
        "adapter",
    )
    assert times["adapter"].result == times["engine"].result
    within = engine.seconds[1::2]  # The engine's own part of each prediction.
    return {
        "adapter.overhead": ratio(times["adapter"], Times(None, within)) - 1,
        "adapter.seconds": times["adapter"].median,
        "adapter.engine_seconds": times["engine"].median,
    }


class Timed(Engine):
    """An engine that measures its own time in each call: without its caller's between requests and chunks."""

    def __init__(self, engine: LocalEngine) -> None:
        self.engine = engine
        self.seconds: list[float] = []

    def stream(
        self, requests: Iterable[Request | None], follow: Follow | None = None, deltas: bool = True
    ) -> Iterator[Chunk]:
        """As the engine's."""
        coming, outside = iter(requests), 0.0

        def pulled() -> Iterator[Request | None]:
            nonlocal outside
            while True:
                asked = time.perf_counter()
                request = next(coming, _END)
                outside += time.perf_counter() - asked
                if request is _END:
                    return
                yield request

        started = time.perf_counter()
        for chunk in self.engine.stream(pulled(), follow, deltas):
            given = time.perf_counter()
            yield chunk
            outside += time.perf_counter() - given
        self.seconds.append(time.perf_counter() - started - outside)


@dataclass(frozen=True, slots=True)
class Stored:
    """A platform item, with nothing to wait for."""

    id: str
    content: bytes

    @property
    def filename(self) -> str:
        """A path on the platform."""
        return f"/{self.id}.json"

    def read(self) -> dict[str, Any]:
        """What the model is asked."""
        return {**json.loads(self.content), "id": self.id, "filename": self.filename}


def content(conversation: Conversation) -> bytes:
    """A conversation as a prompt item of one question."""
    turns = {
        str(turn): {"mimetype": "application/text", "value": workload.words(asked.question)}
        for turn, asked in enumerate(conversation)
    }
    item = {"shebang": "dataloop", "metadata": {"dltype": "prompt"}, "prompts": {"question": turns}}
    return json.dumps(item).encode()


def model_adapter(engine: Timed, length: int) -> ModelAdapter:
    """The platform's adapter around an engine, without a platform."""
    hugging = HuggingAdapter({"model_name": "L", "max_new_tokens": length})
    hugging._engine = engine
    adapter = ModelAdapter()
    adapter.adapter = hugging
    # Its setter would write defaults to the platform.
    adapter._model_entity = dl.Model.from_json({"id": "1", "name": "L"}, dl.client_api)
    return adapter


def predicted(adapter: ModelAdapter, items: list[Stored]) -> list[list[str]]:
    """The answers that an upload would carry, by item."""
    annotations = adapter.predict([item.read() for item in items])
    return [[annotation.to_json()["coordinates"] for annotation in found] for found in annotations]
