"""Items of a platform that takes 100 ms a request: our flow, the SDK's own `predict_items`, the engine."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dtlpy as dl

import models
from adapters.dataloop import ModelAdapter
from benchmarks.machine import Machine
from benchmarks.rounds import interleave

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
    with platform(size.latency):
        items = stored(prompts)
        adapter = model_adapter(hugging)
        times = interleave(
            {
                "engine": lambda: hugging.predict(prompts),
                "flow": lambda: adapter.predict_items(items),
                "sdk": lambda: by_the_sdk(adapter, items),
            },
            size.rounds,
            "platform",
            after=lambda name: name == "engine" or check(items),
        )
    # Nobody can answer before the first download is there, or be done before the last upload is.
    overlapped = times["flow"].median - 2 * size.latency
    return {
        "platform.vs_sdk": times["sdk"].median / times["flow"].median,
        "platform.over_engine": overlapped / times["engine"].median,
        "platform.items": size.items,
        **{f"platform.{name}_seconds": time.median for name, time in times.items()},
    }


def prompt_item(number: int) -> dict[str, Any]:
    """A prompt item of two conversations."""
    conversations = [QUESTIONS[number % 3], QUESTIONS[(number + 1) % 3]]
    text = "application/text"
    prompts = {
        str(key): {str(turn): {"mimetype": text, "value": value} for turn, value in enumerate(conversation)}
        for key, conversation in enumerate(conversations)
    }
    return {"shebang": "dataloop", "metadata": {"dltype": "prompt"}, "prompts": prompts}


@contextmanager
def platform(latency: float = 0.0, faults: float = 0.0) -> Iterator[None]:
    """A local platform in a process of its own, with the SDK logged in to it.

    Args:
        latency: seconds that each request waits.
        faults: the share of requests that fail.
    """
    command = [sys.executable, "-m", "tests.gateway", f"--latency={latency}", f"--faults={faults}"]
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


def stored(prompts: list[dict[str, Any]]) -> list[dl.Item]:
    """The items, uploaded."""
    dataset = dl.projects.create(project_name="benchmark").datasets.create(dataset_name="items")

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


def check(items: list[dl.Item]) -> None:
    """Raises AssertionError unless each item has one answer to each of its questions."""
    filters = dl.Filters(resource=dl.FiltersResource.ANNOTATION)
    dataset = items[0].dataset
    answers = [annotation for page in dataset.annotations.list(filters=filters) for annotation in page]
    expected = sum(len(QUESTIONS[i % 3]) + len(QUESTIONS[(i + 1) % 3]) for i, _ in enumerate(items))
    assert len(answers) == expected, f"{len(answers)} answers, not {expected}"
