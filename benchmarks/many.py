"""Whether an answer costs more where there are many."""

import torch

from benchmarks import models, workload
from benchmarks.own import ours
from benchmarks.rounds import interleave, ratio
from engine.backends.local import LocalEngine

# One narrow layer: what grows would be the engine's own work.
TINY = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "num_hidden_layers": 1,
    "vocab_size": 4096,
}


def measure(answers: tuple[int, int], length: int, rounds: int) -> float:
    """Seconds per answer where there are many, over those where there are few.

    All answers and questions have the same length, so that the rows are full up to the end in both.
    """
    loaded = models.load("L", torch.float32, TINY)
    engine = LocalEngine(loaded)
    few, many = (
        [
            [workload.Turn(turn.question[:length], length) for turn in conversation]
            for conversation in workload.conversations(count // 2, 2, TINY["vocab_size"])
        ]
        for count in answers
    )
    runs = answers[1] // answers[0] // 4  # Of the few: one by itself would be mostly noise.
    times = interleave(
        {"few": lambda: [ours(engine, few) for _ in range(runs)], "many": lambda: [ours(engine, many)]},
        rounds=rounds,
        title="generation.cost_growth",
    )
    return ratio(times["many"], times["few"]) * runs * answers[0] / answers[1]
