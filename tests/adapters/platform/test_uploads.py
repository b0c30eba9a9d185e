"""Whoever looks last decides alike: runs at once, killed at any request, then resumed; no clock is asked."""

import contextlib
import itertools
import random
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import dtlpy as dl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.dataloop import ModelAdapter
from adapters.hugging import HuggingAdapter
from adapters.platform import flow, partial, remote, settling, storing, uploads
from tests.fakes import FakeEngine
from tests.gateway import store
from tests.helpers.tables import Tables
from tests.helpers.turns import RUN, Inheriting, Inline, Run

TEXT = "application/text"
QUESTIONS = {
    "prompts": {
        "two": {str(i): {"mimetype": TEXT, "value": f"question {i}"} for i in range(2)},
        "one": {"1": {"mimetype": TEXT, "value": "question"}},
    }
}


def adapter(text: str) -> ModelAdapter:
    hugging = HuggingAdapter({"model_name": "tiny", "stream_interval": 0.0})
    hugging._engine = FakeEngine(lambda request: text)
    adapter = ModelAdapter()
    adapter.adapter = hugging
    adapter._model_entity = dl.Model.from_json(
        {"id": "1", "name": "tiny", "configuration": {}}, dl.client_api
    )
    return adapter


def whole(tables: Tables) -> set[str]:
    """Prompts that have a whole answer."""
    numbers: dict[Any, set[int]] = defaultdict(set)
    for one in tables.annotations:
        mark = one["metadata"]["user"]["upload"]
        if not mark.get("draft"):
            key = one["metadata"]["system"]["promptId"]
            numbers[key, mark["id"], mark["of"]].add(mark["number"])
    return {key for (key, _, of), found in numbers.items() if len(found) == of}


def texts(tables: Tables) -> list[tuple[str, str]]:
    return sorted((one["metadata"]["system"]["promptId"], one["coordinates"]) for one in tables.annotations)


@pytest.fixture(scope="module")
def one_at_a_time() -> Iterator[None]:
    """A run's threads make one request at a time, each answer in a request of its own."""
    threads = SimpleNamespace(**{**vars(threading), "Thread": Inheriting})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow, "threading", threads)
        for module in (flow, settling, partial):
            patch.setattr(module, "ThreadPoolExecutor", Inline)
        patch.setattr(storing, "BATCH", 1)
        yield


@contextlib.contextmanager
def platform(seed: int) -> Iterator[Tables]:
    """A platform whose clock, and whose and our ids, say nothing."""
    chance = random.Random(seed)
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "now", lambda: f"2026-01-01T00:00:00.{chance.randrange(1000):03}Z")
        patch.setattr(store, "new_id", lambda: f"{chance.getrandbits(96):024x}")
        patch.setattr(uploads, "time", SimpleNamespace(time_ns=lambda: chance.getrandbits(60)))
        tables = Tables(Path(folder))
        tables.upload(QUESTIONS)

        def ask(method: str, *arguments: Any, **named: Any) -> Any:
            run = RUN.get(None)
            if run is None or method == "GET":
                return tables.ask(method, *arguments, **named)
            return run.request(lambda: tables.ask(method, *arguments, **named))

        patch.setattr(remote, "ask", ask)
        yield tables


def answer(tables: Tables, text: str, **options: Any) -> None:
    adapter(text).predict_dataset(SimpleNamespace(id=tables.dataset_id), **options)


def interleave(tables: Tables, runs: list[Run], turns: Iterator[int]) -> None:
    """Lets runs make their requests in these turns; no prompt may lose its last whole answer on the way."""
    for number, run in enumerate(runs):
        run.start(
            lambda text=f"run {number}", run=run: answer(tables, text, resume=run.resume, stream=run.stream)
        )
    there = whole(tables)
    while alive := [run for run in runs if not run.ended]:
        alive[next(turns) % len(alive)].go_on()
        assert there <= (there := whole(tables))


RUNS = st.builds(
    Run,
    resume=st.booleans(),
    stream=st.booleans(),
    dies=st.none() | st.tuples(st.integers(2, 14), st.booleans()),
)


@given(
    seed=st.integers(0, 2**32),
    earlier=st.booleans(),
    runs=st.lists(RUNS, min_size=1, max_size=3),
    turns=st.lists(st.integers(0, 5), min_size=1, max_size=60),
)
@settings(max_examples=120, deadline=None)
def test_after_runs_at_once_were_killed_at_any_request_a_resumed_one_leaves_each_answer_once(
    one_at_a_time, seed, earlier, runs, turns
):
    with platform(seed) as tables:
        if earlier:
            answer(tables, "earlier")
        interleave(tables, runs, itertools.cycle(turns))
        assert all(run.error is None or run.killed for run in runs), [run.error for run in runs]
        if any(run.killed for run in runs):
            answer(tables, "resumed", resume=True)
        found = texts(tables)
        assert [key for key, _ in found] == ["one", "two", "two"]
        assert len({text for key, text in found if key == "two"}) == 1
        assert whole(tables) == {"one", "two"}
        answer(tables, "again", resume=True)
        assert texts(tables) == found
        answer(tables, "last")
        assert texts(tables) == [("one", "last"), ("two", "last"), ("two", "last")]
