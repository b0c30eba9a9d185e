"""Runs over the items of one dataset, two at once, each in a process that is killed at a random moment."""

import multiprocessing
import time
from multiprocessing.process import BaseProcess
from random import Random
from typing import Any

import dtlpy as dl
from tqdm import tqdm

from adapters.dataloop import ModelAdapter
from adapters.hugging import HuggingAdapter
from adapters.platform import storing
from benchmarks import platform
from tests.fakes import FakeEngine

tqdm.get_lock()  # A run that is killed could not give back one of its own.


def run(dataset_id: str, kills: int, longest: float, chance: Random) -> None:
    """Keeps two runs at work until so many were killed, and kills those that are left.

    Args:
        longest: seconds between two kills at most.
    """
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])  # Imported once, not for each run.
    login = dl.client_api.environments, dl.client_api.environment
    imported = processes.Process(target=int)
    imported.start()
    imported.join()
    runs: list[BaseProcess] = []
    while kills > 0:
        while len(runs) < 2:
            options = {name: chance.random() < 0.5 for name in ("resume", "stream")}
            text = f"{kills}, {options}"
            runs.append(processes.Process(target=_answer, args=(login, dataset_id, text, options)))
            runs[-1].start()
        time.sleep(chance.uniform(0, longest))
        victim = chance.choice(runs)
        kills -= victim.is_alive()
        victim.kill()
        runs = [one for one in runs if one.is_alive() and one is not victim]
    for left in runs:
        left.kill()
        left.join()


def adapter(text: str) -> ModelAdapter:
    """The platform's adapter of a model that always answers this."""
    hugging = HuggingAdapter({"model_name": "stand-in", "stream_interval": 0.0})
    hugging._engine = FakeEngine(lambda request: text)
    return platform.model_adapter(hugging)


def _answer(login: tuple[Any, str], dataset_id: str, text: str, options: dict[str, bool]) -> None:
    dl.client_api.environments, url = login
    dl.setenv(url)
    storing.BATCH = 1  # Or an item's answers would never be sent in part.
    adapter(text).predict_dataset(dl.datasets.get(dataset_id=dataset_id), **options)
