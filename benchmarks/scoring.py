"""Scoring: prompts with several candidates each, beside one forward pass per pair and lm-eval's HFLM."""

import logging
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks import models, workload
from benchmarks.machine import Machine
from benchmarks.rounds import interleave, ratio
from engine.backends.local import LocalEngine
from engine.loading import Loaded

Choices = list[tuple[str, list[str]]]
Scored = list[list[float]]  # By prompt and candidate: the natural logarithm of the candidate's probability.

# Of the sizes tried on a CPU, the fastest.
HFLM_BATCH = 16


@dataclass(frozen=True, slots=True)
class Size:
    """How much is run.

    Attributes:
        changes: to the model's configuration.
        sample: one forward pass per pair scores every so-manieth prompt, and its time is scaled.
        fp32: whether all is run a second time, in float32, where bfloat16 is emulated.
    """

    rounds: int = 3
    prompts: int = 64
    candidates: int = 8
    changes: dict[str, int] = field(default_factory=dict)
    sample: int = 1
    fp32: bool = True


FULL = Size()
# All of it would take hours where bfloat16 is emulated.
EMULATED = Size(prompts=16, sample=4)
# The output head keeps its share of the work.
QUICK = Size(
    rounds=1,
    prompts=12,
    changes={"num_hidden_layers": 8, "vocab_size": 16384},
    sample=6,
    fp32=False,
)


def run(size: Size, here: Machine) -> dict[str, float]:
    """Pairs per second of each contender, and the engine's lead.

    Raises:
        AssertionError: scores that differ by more than 1e-3 where all compute in float32.
    """
    figures = compare("scoring", torch.bfloat16, size)
    if size.fp32 and not here.has_bfloat16:
        figures |= compare("scoring.fp32", torch.float32, size)
    return figures


def compare(title: str, dtype: torch.dtype, size: Size) -> dict[str, float]:
    """As `run`, in one dtype."""
    loaded = models.load("L", dtype, size.changes)
    given = workload.choices(size.prompts, size.candidates, loaded.model.config.vocab_size)
    some = given[:: size.sample]
    harness = lm_eval(loaded)
    engine = LocalEngine(models.twin(loaded))
    times = interleave(
        {
            "pairs": lambda: pairs(loaded, some),
            "hflm": lambda: hflm(harness, given),
            "engine": lambda: ours(engine, given),
        },
        size.rounds,
        title,
    )
    if dtype == torch.float32:
        scored = times["engine"].result
        for name, same in (("pairs", scored[:: size.sample]), ("hflm", scored)):
            torch.testing.assert_close(
                torch.tensor(times[name].result), torch.tensor(same), atol=1e-3, rtol=0
            )
    speeds = {name: len(timed.result) * size.candidates / timed.median for name, timed in times.items()}
    figures = {f"{title}.{name}.pairs_per_second": speed for name, speed in speeds.items()}
    leads = {name: ratio(times[name], times["engine"]) for name in ("pairs", "hflm")}
    leads["pairs"] *= len(given) / len(some)
    return figures | {f"{title}.vs_{name}": lead for name, lead in leads.items()}


@torch.inference_mode()
def pairs(loaded: Loaded, given: Choices) -> Scored:
    """One forward pass per pair."""
    scored: Scored = []
    for prompt, candidates in given:
        start = len(loaded.tokenizer(prompt)["input_ids"])
        scored.append([])
        for candidate in candidates:
            ids = loaded.tokenizer(f"{prompt} {candidate}", return_tensors="pt")["input_ids"]
            logprobs = loaded.model(ids[:, :-1]).logits[0, start - 1 :].float().log_softmax(-1)
            scored[-1].append(float(logprobs.gather(1, ids[0, start:, None]).sum()))
    return scored


def lm_eval(loaded: Loaded) -> Any:
    """lm-evaluation-harness around the model; imported here, for that takes seconds."""
    from lm_eval.models.huggingface import HFLM

    # It warns of arguments that a model object makes superfluous, and that it is not given.
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return HFLM(loaded.model, "causal", tokenizer=loaded.tokenizer, batch_size=HFLM_BATCH, prefix_token_id=0)


def hflm(harness: Any, given: Choices) -> Scored:
    """lm-evaluation-harness, which sorts the pairs by length and pads them."""
    from lm_eval.api.instance import Instance

    requests = [
        Instance("loglikelihood", {}, (prompt, f" {candidate}"), 0)
        for prompt, candidates in given
        for candidate in candidates
    ]
    scored = iter(harness.loglikelihood(requests, disable_tqdm=True))
    return [[next(scored)[0] for _ in candidates] for _, candidates in given]


def ours(engine: LocalEngine, given: Choices) -> Scored:
    """The engine, which reads a prompt once for all its candidates."""
    scored = engine.score(
        [prompt for prompt, _ in given],
        [[f" {candidate}" for candidate in candidates] for _, candidates in given],
    )
    return [[candidate.total for candidate in scores.candidates] for scores in scored]
