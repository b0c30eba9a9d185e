"""Generation: speed beside its peers, memory, and whether many answers cost more each than few."""

import tempfile
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks import many, memory, models, workload
from benchmarks.contest import contest
from benchmarks.guests.guest import GUESTS, guests
from benchmarks.machine import Machine
from engine.backends.local import LocalEngine
from engine.loading import load
from engine.options import LoadOptions


@dataclass(frozen=True, slots=True)
class Size:
    """How much is run.

    Attributes:
        changes: to both models' configurations.
        shorten: divides the lengths of questions and answers of L in bfloat16.
        shorten_rest: the same for all else.
        sample: of the conversations for the loop, as `contest` has it.
        fp32_sample: the same where bfloat16 is emulated and L runs again, in float32; None: it does not.
        compiled: whether the engine runs L with `compile: true`, too.
        memory: changes to L's configuration where memory is measured.
        output_scores: whether the memory of `output_scores` is measured, too.
        answers: of the two runs whose costs per answer are compared.
        answer_tokens: of each of these answers.
    """

    rounds: int = 3
    conversations: int = 32
    changes: dict[str, int] = field(default_factory=dict)
    shorten: int = 1
    shorten_rest: int = 1
    sample: int = 4
    fp32_sample: int | None = 4
    compiled: bool = True
    memory: dict[str, int] = field(default_factory=dict)
    output_scores: bool = True
    answers: tuple[int, int] = (64, 1024)
    answer_tokens: int = 24


FULL = Size()
# All of it would take hours where bfloat16 is emulated.
EMULATED = Size(shorten_rest=4, sample=8, fp32_sample=8)
# The output head keeps its share of the work, but for memory, which depends on its whole size.
QUICK = Size(
    rounds=1,
    changes={"num_hidden_layers": 3, "vocab_size": 6144},
    shorten=8,
    shorten_rest=8,
    sample=8,
    fp32_sample=None,
    compiled=False,
    memory={"num_hidden_layers": 2},
    output_scores=False,
    answer_tokens=4,
)


def run(size: Size, here: Machine) -> dict[str, float]:
    """All figures of generation.

    Raises:
        AssertionError: as `contest`.
    """

    def compare(
        title: str, name: str, dtype: torch.dtype, sample: int, shorten: int, *others: str
    ) -> dict[str, float]:
        loaded = models.load(name, dtype, size.changes)
        vocabulary = loaded.model.config.vocab_size
        given = workload.conversations(size.conversations, 2, vocabulary, shorten)
        with tempfile.TemporaryDirectory() as folder, guests(folder, loaded, others) as found:
            load_seconds = {"engine": _load(folder)[1]}
            engines = {}
            if size.compiled and title == "L":
                engines["engine_compiled"], load_seconds["engine_compiled"] = _load(folder, compile=True)
            figures = contest(f"generation.{title}", loaded, given, size.rounds, sample, found, engines)
            return figures | {
                f"generation.{title}.{name}.load_seconds": seconds for name, seconds in load_seconds.items()
            }

    figures = compare("L", "L", torch.bfloat16, size.sample, size.shorten, *GUESTS)
    if size.fp32_sample and not here.has_bfloat16:
        # There it is emulated and the engine computes in float32: what is its lead against that?
        figures |= compare("L_fp32", "L", torch.float32, size.fp32_sample, size.shorten_rest)
    figures |= compare("S", "S", torch.float32, size.sample, size.shorten_rest, "vllm_compiled")
    figures["generation.S.vs_best"] = min(
        figures["generation.S.vs_generate"], figures["generation.S.vs_continuous_batching"]
    )
    figures["generation.extra_memory_mb"] = memory.measure("engine", size.memory, size.shorten_rest)
    if size.output_scores:
        figures["generation.output_scores_memory_mb"] = memory.measure(
            "output_scores", size.memory, size.shorten_rest
        )
    figures["generation.cost_growth"] = many.measure(size.answers, size.answer_tokens, size.rounds)
    return figures


def _load(folder: str, **options: Any) -> tuple[LocalEngine, float]:
    """An engine with the model of a folder, and the seconds until it may answer, without the imports."""
    started = time.perf_counter()
    engine = LocalEngine(load(LoadOptions(model_name=folder, device="cpu", **options)))
    _ = engine.batching
    return engine, time.perf_counter() - started
