"""A model that adds, and knows how sure it may be: its confidence is the chance that it is right."""

import random
import re
from typing import Any

import pytest

from adapters.evaluation.truth import Truth
from adapters.hugging import HuggingAdapter
from engine.types import Answer, Request, Usage
from tests.fakes import FakeEngine


class Adding(FakeEngine):
    """Says the sum with a probability that is the fourth power of its confidence, and else one more."""

    def __init__(self) -> None:
        super().__init__(lambda request: request.messages[-1].text)

    def _answer(self, request: Request) -> Answer:
        a, b = map(int, re.findall(r"\d+", self.reply(request)))
        rng = random.Random(f"{a} {b}")
        chance = rng.betavariate(4, 1)
        said = a + b if rng.random() < chance else a + b + 1
        sure = chance**0.25
        others = {"min_token": sure, "first_token": rng.random(), "margin": None}
        known = {name: others[name] for name in request.options.confidence_methods if name in others}
        return Answer(f"It is {said}.", (), None, sure, "stop", Usage(0, 0), confidences=known)


@pytest.fixture
def adding() -> HuggingAdapter:
    """The model that adds, loaded."""
    return made()


def made(**configuration: Any) -> HuggingAdapter:
    """The model that adds, with a configuration."""
    adapter = HuggingAdapter({"model_name": "adding", **configuration})
    adapter._engine = Adding()
    return adapter


def sums(count: int, start: int = 0) -> list[dict[str, Any]]:
    """Prompt items of ten sums each, `count` sums in all."""
    asked = [(number // 50, number % 50) for number in range(start, start + count)]
    return [
        {
            "filename": f"/sums/{i}.json",
            "prompts": {f"{a}+{b}": {"1": {"value": f"How much is {a}+{b}?"}} for a, b in asked[i : i + 10]},
        }
        for i in range(0, count, 10)
    ]


def truth_of(items: list[dict[str, Any]], share: float = 1.0) -> Truth:
    """The right answers to a share of the sums."""
    truth = Truth()
    keys = [(item["filename"], key) for item in items for key in item["prompts"]]
    for name, key in keys[: round(share * len(keys))]:
        a, b = map(int, key.split("+"))
        truth.add(name, key, f"It is {a + b}")
    return truth
