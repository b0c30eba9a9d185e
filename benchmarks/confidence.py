"""Confidence: what each kind of evidence adds to the time of generation, and what eight samples cost."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch

from benchmarks import models, workload
from benchmarks.machine import Machine
from benchmarks.rounds import interleave, ratio
from engine.backends.local import LocalEngine
from engine.options import GenerationOptions
from engine.types import Answer, Request

# A method for each kind of evidence that one pass records beside the log-probabilities.
ONE_PASS = ("mean_entropy", "margin", "top_k_mass")


@dataclass(frozen=True, slots=True)
class Size:
    """How much is run.

    Attributes:
        questions: answered together, of which the evidence is recorded.
        alone: answered one at a time, with eight samples each.
        tokens: of each answer.
        changes: to the model's configuration.
    """

    rounds: int = 7
    questions: int = 32
    alone: int = 4
    tokens: int = 48
    changes: dict[str, int] = field(default_factory=dict)


FULL = EMULATED = Size()
QUICK = Size(rounds=3, questions=16, alone=1, tokens=6)


def run(size: Size, here: Machine) -> dict[str, float]:
    """The time of each method over that of the default one.

    The model is small (GPT-2) and its vocabulary large, so that what is done with the logits weighs most.
    """
    engine = LocalEngine(models.load("S", torch.float32, size.changes))
    vocabulary = engine.loaded.model.config.vocab_size
    questions = [turn.message for [turn] in workload.conversations(size.questions, 1, vocabulary)]

    def ask(count: int, **options: object) -> list[Request]:
        chosen = GenerationOptions(max_new_tokens=size.tokens, **options)
        return [Request((message,), chosen) for message in questions[:count]]

    def together(**options: object) -> Callable[[], list[Answer]]:
        return partial(engine.generate, ask(size.questions, **options))

    def alone(**options: object) -> Callable[[], list[Answer]]:
        return lambda: [engine.generate([request])[0] for request in ask(size.alone, **options)]

    contenders = {"default": together()}
    contenders |= {method: together(confidence=method) for method in ONE_PASS}
    times = interleave(contenders, size.rounds, "confidence")
    figures = {
        f"confidence.{method}.over_generation": ratio(times[method], times["default"]) for method in ONE_PASS
    }
    apart = interleave(
        {"one": alone(), "samples": alone(confidence="self_consistency", confidence_samples=8)},
        max(size.rounds // 2, 1),
        "confidence of samples",
    )
    return figures | {"confidence.self_consistency.over_one_answer": ratio(apart["samples"], apart["one"])}
