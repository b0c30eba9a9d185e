"""Memory that generation takes beside the weights and the keys and values of its live rows.

Measured in a process of its own: what others have freed there would hide what is taken.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from benchmarks import models, workload
from benchmarks.machine import Work
from benchmarks.own import ours
from benchmarks.peers import left_padded
from benchmarks.workload import Conversation
from engine.backends.local import LocalEngine
from engine.loading import Loaded

ROWS = 32


def measure(contender: str, changes: dict[str, int], shorten: int) -> float:
    """MB.

    Args:
        contender: "engine", or "output_scores": `generate` that keeps the logits of all steps.
        changes: to the configuration of L.
        shorten: divides the lengths of questions and answers.
    """
    done = subprocess.run(  # noqa: S603 - this file.
        [sys.executable, "-m", "benchmarks.memory", contender, json.dumps(changes), str(shorten)],
        cwd=Path(__file__).parents[1],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return float(done.stdout.splitlines()[-1])


def main(contender: str, changes: dict[str, int], shorten: int) -> None:
    """Measures and prints the MB."""
    loaded = models.load("L", torch.bfloat16, changes)
    answer = {"engine": _engine, "output_scores": _output_scores}[contender](loaded)
    given = workload.conversations(ROWS, 1, loaded.model.config.vocab_size, shorten)
    answer([[workload.Turn(turn.question[:4], 2) for turn in conversation] for conversation in given[:2]])
    with _peak() as peak:
        answer(given)
    # The engine may have changed the model's dtype: it is the one that the cache has.
    print((peak() - live_bytes(given, Work.of(loaded.model.config, 0), loaded.model.dtype)) / 1e6)


def live_bytes(given: list[Conversation], work: Work, dtype: torch.dtype) -> int:
    """The most that the keys and values of conversations of one turn take while all are answered together."""
    rows = [(len(turn.question), turn.length) for (turn,) in given]
    longest = max(length for _, length in rows)
    tokens = (sum(asked + step for asked, length in rows if step < length) for step in range(longest))
    return max(tokens) * work.kv_width * dtype.itemsize


def _engine(loaded: Loaded) -> Callable[[list[Conversation]], object]:
    engine = LocalEngine(loaded)
    return lambda given: ours(engine, given)


def _output_scores(loaded: Loaded) -> Callable[[list[Conversation]], object]:
    def answer(given: list[Conversation]) -> object:
        input_ids, mask = left_padded([turn.question for (turn,) in given])
        output = loaded.model.generate(
            input_ids,
            attention_mask=mask,
            max_new_tokens=max(turn.length for (turn,) in given),
            do_sample=False,
            output_scores=True,
            return_dict_in_generate=True,
        )
        return loaded.model.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)

    return answer


@contextmanager
def _peak() -> Iterator[Callable[[], int]]:
    """By how many bytes the process has grown at most since this was entered, sampled each millisecond."""
    process, done = psutil.Process(), threading.Event()
    start = most = process.memory_info().rss

    def sample() -> None:
        nonlocal most
        while not done.wait(0.001):
            most = max(most, process.memory_info().rss)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield lambda: most - start
    finally:
        done.set()
        thread.join()


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3]))
