"""Items of a platform that takes 100 ms a request: our flow, the SDK's own `predict_items`, the engine."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dtlpy as dl

import models
from adapters.dataloop import ModelAdapter
from benchmarks.machine import Machine
from benchmarks.rounds import Times, interleave, ratio

ROOT = Path(__file__).parents[1]
QUESTIONS = (
    ("Hello", "My name is Ada.", "What is my name?"),
    ("What is the capital of France?",),
    ("What is 3 plus 4?", "Thank you"),
)


@dataclass(frozen=True, slots=True)
class Size:
    """How much is run."""

    rounds: int = 3
    items: int = 200
    latency: float = 0.1


FULL = EMULATED = Size()
QUICK = Size(rounds=1, items=40)


def run(size: Size, here: Machine) -> dict[str, float]:
    """Seconds of each, and how they compare.

    Raises:
        AssertionError: an item has not got its answers, once.
    """
    hugging = models.find("tiny_talk")({})
    hugging.load()
    prompts = [prompt_item(i) for i in range(size.items)]
    started = time.perf_counter()
    hugging.predict(prompts)
    seconds = time.perf_counter() - started
    with platform(size.latency), traffic(size, seconds) as busy:

        def beside() -> None:
            with busy():
                hugging.predict(prompts)

        adapter = model_adapter(hugging)
        waiting = [stored(prompts) for _ in range(2 * size.rounds)]
        times = interleave(
            {
                "engine": lambda: hugging.predict(prompts),
                "engine_beside": beside,
                "flow": lambda: adapter.predict_items(waiting[-1]),
                "sdk": lambda: by_the_sdk(adapter, waiting[-1]),
            },
            size.rounds,
            "platform",
            after=lambda name: name.startswith("engine") or check(waiting.pop()),
        )
    # Nobody can answer before the first download is there, or be done before the last upload is.
    overlapped = Times(None, [seconds - 2 * size.latency for seconds in times["flow"].seconds])
    return {
        "platform.vs_sdk": ratio(times["sdk"], times["flow"]),
        "platform.over_engine": ratio(overlapped, times["engine"]),
        "platform.over_engine_beside": ratio(overlapped, times["engine_beside"]),
        "platform.items": size.items,
        **{f"platform.{name}_seconds": time.median for name, time in times.items()},
    }


def prompt_item(number: int) -> dict[str, Any]:
    """A prompt item of two conversations."""
    conversations = [QUESTIONS[number % 3], QUESTIONS[(number + 1) % 3]]
    text = "application/text"
    prompts = {
        str(key): {
            # The number: equal conversations would be answered once.
            str(turn): {"mimetype": text, "value": f"{value} ({number})"}
            for turn, value in enumerate(conversation)
        }
        for key, conversation in enumerate(conversations)
    }
    return {"shebang": "dataloop", "metadata": {"dltype": "prompt"}, "prompts": prompts}


@contextmanager
def platform(latency: float = 0.0, faults: float = 0.0, clock: float = 0.0) -> Iterator[None]:
    """A local platform in a process of its own, with the SDK logged in to it.

    Args:
        latency: seconds that each request waits.
        faults: the share of requests that fail.
        clock: seconds by which each of its dates may be off.
    """
    dials = {"latency": latency, "faults": faults, "clock": clock}
    options = [f"--{name}={value}" for name, value in dials.items()]
    command = [sys.executable, "-m", "tests.gateway", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout is not None
        process.stdout.readline()
        folder = Path(process.stdout.readline().strip().partition("=")[2])
        login = json.loads((folder / "cookie.json").read_text())
        dl.client_api.environments = login["login_parameters"]
        dl.client_api.verbose.disable_progress_bar = True
        dl.setenv(login["url"])
        try:
            yield
        finally:
            process.terminate()


@contextmanager
def traffic(size: Size, seconds: float) -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """A second platform with runs of so many seconds over it, without a model; at work while it is entered.

    The local platform takes of the machine's cores what a real one does not: what the engine needs beside it
    is what a run can be compared to.
    """
    command = [sys.executable, "-m", "benchmarks.traffic", *map(str, (size.items, size.latency, seconds))]
    with subprocess.Popen(  # noqa: S603
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, process_group=0
    ) as process:
        assert process.stdout is not None
        while process.stdout.readline().strip() != "ready":
            assert process.poll() is None, "the traffic has ended"
        os.killpg(process.pid, signal.SIGSTOP)

        @contextmanager
        def busy() -> Iterator[None]:
            os.killpg(process.pid, signal.SIGCONT)
            try:
                yield
            finally:
                os.killpg(process.pid, signal.SIGSTOP)

        try:
            yield busy
        finally:
            os.killpg(process.pid, signal.SIGCONT)
            process.terminate()  # It ends its platform.


def stored(prompts: list[dict[str, Any]]) -> list[dl.Item]:
    """The items, uploaded."""
    project = dl.projects.create(project_name=f"benchmark-{uuid.uuid4().hex[:8]}")
    dataset = project.datasets.create(dataset_name="items")

    def upload(number: int) -> dl.Item:
        content = io.BytesIO(json.dumps(prompts[number]).encode())
        return dataset.items.upload(local_path=content, remote_name=f"{number}.json", raise_on_error=True)

    with ThreadPoolExecutor(16) as pool:
        return list(pool.map(upload, range(len(prompts))))


def model_adapter(hugging: Any) -> ModelAdapter:
    """The platform's adapter around a loaded model."""
    adapter = ModelAdapter()
    adapter.adapter = hugging
    # Its setter would write defaults to the platform, and so would a key that the SDK misses.
    entity = {"id": "1", "name": "tiny", "configuration": {"batch_size": 4}}
    adapter._model_entity = dl.Model.from_json(entity, dl.client_api)
    adapter._configuration = adapter._model_entity.configuration
    return adapter


def by_the_sdk(adapter: ModelAdapter, items: list[dl.Item]) -> None:
    """The SDK's own `predict_items`, which calls our `prepare_item_func` and `predict`; without its bar."""
    with redirect_stdout(io.StringIO()):
        dl.BaseModelAdapter.predict_items(adapter, items)


def answers(items: int) -> int:
    """How many answers so many items get: one to each of their questions."""
    return sum(len(QUESTIONS[i % 3]) + len(QUESTIONS[(i + 1) % 3]) for i in range(items))


def check(items: list[dl.Item]) -> None:
    """Raises AssertionError unless each item has one answer to each of its questions."""
    filters = dl.Filters(resource=dl.FiltersResource.ANNOTATION)
    dataset = items[0].dataset
    found = sum(1 for page in dataset.annotations.list(filters=filters) for _ in page)
    assert found == answers(len(items)), f"{found} answers, not {answers(len(items))}"
