"""The ways to answer conversations, side by side on one model."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
from transformers import PreTrainedModel

from benchmarks import machine, models, peers, workload
from benchmarks.guests.guest import Guest, VLLMBackend
from benchmarks.machine import Machine, Work
from benchmarks.own import ours
from benchmarks.rounds import interleave, ratio
from benchmarks.workload import Answers, Conversation
from engine.backends.local import LocalEngine
from engine.loading import Loaded


@dataclass(slots=True)
class Contender:
    """A way to answer conversations.

    Attributes:
        model: what computes; None if it runs in another process.
        asked: what it is asked; its answers are all to these.
        steps: forward passes of its last run.
    """

    model: PreTrainedModel | None
    answer: Callable[[list[Conversation]], Answers]
    asked: list[Conversation]
    steps: int = 0

    def run(self) -> Answers:
        """Answers, and counts the model's forward passes."""
        if self.model is None:
            return self.answer(self.asked)
        with _counted(self.model) as count:
            answers = self.answer(self.asked)
        self.steps = count()
        return answers


def contest(
    title: str,
    loaded: Loaded,
    given: list[Conversation],
    rounds: int,
    sample: int = 1,
    guests: Mapping[str, Guest | VLLMBackend] = MappingProxyType({}),
    engines: Mapping[str, LocalEngine] = MappingProxyType({}),
) -> dict[str, float]:
    """Each contender's tokens per second and its share of the limit, and the engine's lead over each.

    The machine is measured between the contenders: what else it does falls on its limit, too.

    Args:
        title: begins the figures' names.
        sample: the loop answers every so-manieth conversation, and its time is scaled by the tokens. It
            answers them one by one, so that none costs it less for the others.
        guests: contenders in processes of their own, by name. They round otherwise, so that the share of
            equal answers is a figure only.
        engines: this repository's engine with other options, by name.

    Raises:
        AssertionError: as `_equal`.
    """
    model, own = loaded.model, models.twin(loaded)
    continuous = peers.ContinuousBatching(model)
    contenders = {
        "generate": Contender(model, partial(peers.batched, model), given),
        "continuous_batching": Contender(model, continuous.answer, given),
        "loop": Contender(model, partial(peers.loop, model), given[::sample]),
        **{name: Contender(None, guest.answer, given) for name, guest in guests.items()},
        **{
            name: Contender(engine.loaded.model, partial(ours, engine), given)
            for name, engine in engines.items()
        },
        "engine": Contender(own.model, partial(ours, LocalEngine(own)), given),
    }

    machines: list[Machine] = []

    def close(name: str) -> None:
        if name == "continuous_batching":
            continuous.close()
        elif name in guests:
            guests[name].reset()

    def after(name: str) -> None:
        close(name)
        machines.append(machine.measure())

    for name, contender in contenders.items():  # Warms up what is made at a first call.
        contender.answer(workload.conversations(2, 1, model.config.vocab_size, shorten=10))
        close(name)
    runs = {name: contender.run for name, contender in contenders.items()}
    times = interleave(runs, rounds, title, after)
    here = machine.median(machines)
    figures = {"context": workload.mean_context(given)}
    for name, contender in contenders.items():
        speed = workload.answer_tokens(contender.asked) / times[name].median
        figures[f"{name}.tokens_per_second"] = speed
        if contender.model is not None:
            figures |= {
                f"{name}.{key}": value
                for key, value in _limits(contender, speed, model, figures["context"], here).items()
            }
    for name in [name for name in contenders if name != "engine"]:
        more = workload.answer_tokens(given) / workload.answer_tokens(contenders[name].asked)
        figures[f"vs_{name}"] = ratio(times[name], times["engine"]) * more
        theirs, mine = times[name].result, times["engine"].result[:: sample if name == "loop" else 1]
        figures[f"{name}.equal"] = _equal(
            theirs, mine, contenders[name].asked, exact=model.dtype == torch.float32 and name not in guests
        )
    figures |= {f"{name}.load_seconds": guest.load_seconds for name, guest in guests.items()}
    if guests.keys() >= {"vllm_eager", "vllm_backend"}:
        figures["vllm_backend.overhead"] = ratio(times["vllm_backend"], times["vllm_eager"]) - 1
    figures["share_of_limit"] = figures["engine.share_of_limit"]
    figures["gigabytes_per_second"] = here.bandwidth / 1e9
    figures["float32_teraflops"] = here.matmul["float32"] / 1e12
    return {f"{title}.{key}": value for key, value in figures.items()}


def _limits(
    contender: Contender, speed: float, model: PreTrainedModel, context: float, here: Machine
) -> dict[str, float]:
    """The mean rows of a contender's steps, the machine's limit at these, and the speed's share of it."""
    # The loop's extra forward passes decode nothing.
    rows = max(1.0, workload.answer_tokens(contender.asked) / contender.steps)
    work = Work.of(model.config, models.weights(model))
    limit = max(here.limit(work, rows, context, dtype) for dtype in {torch.float32, model.dtype})
    mixed = here.limit(work, rows, context, model.dtype, max(here.matmul.values()))
    return {
        "rows": rows,
        "limit": limit,
        "share_of_limit": speed / limit,
        "share_of_mixed_limit": speed / mixed,
    }


def _equal(theirs: Answers, ours: Answers, asked: list[Conversation], exact: bool) -> float:
    """The share of conversations to which two contenders gave the same tokens.

    Args:
        exact: whether they compute the same in float32: there only a near tie may fall the other way, where
            a batch rounds its last digit otherwise.

    Raises:
        AssertionError: other lengths than asked for, or, if `exact`, other tokens in more than one of twenty.
    """
    for answers in (theirs, ours):
        lengths = [[len(answer) for answer in given] for given in answers]
        assert lengths == [[turn.length for turn in conversation] for conversation in asked]
    share = sum(a == b for a, b in zip(theirs, ours, strict=True)) / len(asked)
    assert not exact or share > 0.95, f"only {share:.0%} of the conversations are answered alike"
    return share


@contextmanager
def _counted(model: PreTrainedModel) -> Iterator[Callable[[], int]]:
    """Counts how often the model runs."""
    count = 0

    def step(*_: object) -> None:
        nonlocal count
        count += 1

    # Of the whole model: the engine replays what is within.
    hook = model.register_forward_pre_hook(step)
    try:
        yield lambda: count
    finally:
        hook.remove()
