"""How cost grows with length: processor time at some sizes, and its exponent (1: linear)."""

import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from tqdm import tqdm

from adapters.hugging import HuggingAdapter
from adapters.items import context
from adapters.items.item import Item
from adapters.platform import remote
from benchmarks import killing
from benchmarks.machine import Machine
from engine import loading
from engine.backends.local import LocalEngine
from engine.generation.sequence import SequenceState, TokenizedRequest, extend
from engine.loading import Loaded
from engine.options import GenerationOptions
from engine.prompting.prompter import Prompter
from engine.text import Deltas, Detokenizer, StoppingCriteria
from engine.types import Message
from models import tiny_talk
from tests.helpers.listing import Listing

Run = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Size:
    """How much is run.

    Attributes:
        rounds: the fastest of so many runs counts: what else a machine does only adds to it.
        divide: divides all lengths.
    """

    rounds: int = 3
    divide: int = 1


FULL = EMULATED = Size()
QUICK = Size(rounds=1, divide=4)


@dataclass(frozen=True, slots=True)
class Case:
    """Something whose cost depends on a length.

    Attributes:
        lengths: at which it is run.
        prepare: makes what is timed, for a length.
    """

    lengths: tuple[int, ...]
    prepare: Callable[[int], Run]


def run(size: Size, here: Machine) -> dict[str, float]:
    """Seconds of processor time of each case at each length, and the exponents."""
    figures = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # Threads that wait for each other count as busy.
    try:
        for name, case in tqdm(cases().items(), desc="growth", disable=None):
            lengths = [length // size.divide for length in case.lengths]
            seconds = [min(_seconds(case, length) for _ in range(size.rounds)) for length in lengths]
            title = f"growth.{name}"
            figures[f"{title}.exponent"] = exponent(lengths, seconds)
            figures |= {
                f"{title}.seconds_{length}": spent for length, spent in zip(lengths, seconds, strict=True)
            }
    finally:
        torch.set_num_threads(threads)
    return figures


def exponent(lengths: list[int], seconds: list[float]) -> float:
    """The slope of log seconds over log length."""
    return float(np.polyfit(np.log(lengths), np.log(seconds), 1)[0])


def cases() -> dict[str, Case]:
    """All that is measured, by name."""
    loaded = loading.load(tiny_talk.HuggingAdapter().configuration.load)
    turns, tokens, ids = (50, 100, 200), (1000, 2000, 4000, 8000), (10_000, 20_000, 40_000, 80_000)

    def conversation(context_length: int | None) -> Case:
        model = tiny_talk.HuggingAdapter({"max_new_tokens": 8})
        model._engine = LocalEngine(replace(loaded, context_length=context_length))
        return Case(turns, lambda count: lambda: _answered(model, count))

    def choosing(**options: Any) -> Case:
        return Case(tokens, lambda count: lambda: _chosen(loaded, count, GenerationOptions(**options)))

    return {
        "conversation": conversation(None),
        "conversation_with_window": conversation(loaded.context_length),
        "greedy": choosing(),
        "sampled": choosing(temperature=1.0, top_p=0.9, seed=0),
        "frequency_penalty": choosing(frequency_penalty=0.5),
        "repetition_penalty": choosing(repetition_penalty=1.2),
        "long_prompt": Case((10_000, 30_000, 100_000, 300_000), lambda count: _encoding(loaded, count)),
        "stop_string": Case(tokens, lambda count: lambda: _ended(loaded, count)),
        "nearest_items": Case(ids, _naming),
        "listing": Case((1000, 2000, 4000), lambda count: lambda: _listed(count)),
    }


def _seconds(case: Case, length: int) -> float:
    timed = case.prepare(length)
    gc.collect()
    started = time.process_time()
    timed()
    return time.process_time() - started


def _answered(model: HuggingAdapter, turns: int) -> None:
    """A conversation with so many open turns in one prompt."""
    elements = {
        str(turn): {"mimetype": "application/text", "value": f"What is {turn % 50} plus {turn % 7}?"}
        for turn in range(turns)
    }
    [answers] = model.predict([{"prompts": {"1": elements}}])
    assert len(answers) == turns


def _chosen(loaded: Loaded, tokens: int, options: GenerationOptions) -> None:
    """Each token of an answer is chosen, from logits that are there."""
    request = TokenizedRequest([3, 4, 5], tokens, options)
    sequence = SequenceState(request, loaded.model, frozenset())
    logits = torch.randn(1, loaded.model.config.vocab_size, generator=torch.Generator().manual_seed(0))
    while sequence.running:
        extend([sequence], logits)


def _encoding(loaded: Loaded, characters: int) -> Run:
    """A prompt of so many characters is read, by a prompter that has read nothing before."""
    text = "".join(_words(characters))[:characters]
    prompter = Prompter(loaded.tokenizer, loaded.model.config, None)
    return lambda: prompter.encode([Message("user", (text,))], GenerationOptions())


def _words(count: int) -> Iterator[str]:
    random = Random(0)
    for _ in range(count):
        yield "".join(random.choices("etaoinshrdlu", k=random.randint(1, 9))) + " "


def _ended(loaded: Loaded, tokens: int) -> None:
    """An answer of one letter, and a stop string of more of them: it goes on matching, and never ends it."""
    letter = loaded.tokenizer("aa", add_special_tokens=False)["input_ids"][-1]
    stops = ["a" * 4 * tokens]
    stopping = StoppingCriteria(loaded.tokenizer, stops)
    detokenizer, deltas = Detokenizer(loaded.tokenizer, special=False), Deltas(stops)
    for _ in range(tokens):
        assert not stopping(letter)
        deltas.add(detokenizer.add(letter))


def _naming(ids: int) -> Run:
    """A question whose metadata name so many items, few of them more than once."""
    near = [f"{number % 60:024x}" for number in range(ids)]
    elements = [
        {"mimetype": "application/text", "value": "Which?"},
        {"mimetype": "metadata", "value": {"nearestItems": near}},
    ]
    item = {"prompts": {"1": elements}}
    return lambda: context.wanted(Item.of(item, "a model"))


def _listed(items: int) -> None:
    """A dataset of so many items is listed, and each is answered."""
    listing = Listing(items)
    with mock.patch.object(remote, "ask", listing.ask):
        killing.adapter("hi").predict_dataset(SimpleNamespace(id="1"))
    assert listing.stored == items
