"""Rows in, tokens and log-probabilities out: in flight where the model allows it, else in batches.

Knows no text: what ends a row early is a function of its tokens.
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from engine import trial
from engine.attention.packed import logits, packs, switch
from engine.errors import AdapterError, Unsupported
from engine.generation.batched import Batched, Batching, has_rules
from engine.generation.continuous import InFlight
from engine.generation.kv_cache import Slots
from engine.generation.sampling import Decoding, Row
from engine.generation.step import Segment, Step
from engine.loading.placement import is_sharded


class Generation:
    """The rows of one run: `add` lets them wait, `step` brings them on until nothing is `busy`."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        eos: frozenset[int],
        pad: int,
        window: int | None,
        token_bytes: int | None,
        batching: Batching = "padded",
    ) -> None:
        """Nothing runs before the first step.

        Args:
            eos: token ids that end a sequence.
            pad: the id that fills short rows of a batch.
            window: the most tokens that prompt and answer may have together; None where there is no bound.
            token_bytes: as `token_bytes` found it; None for a model whose rows cannot be in flight.
            batching: which other rows may share a batch, as `engine.generation.batched.batching` found it.
        """
        self._batched = Batched(model, eos, pad, window, batching)
        self._flight = None if token_bytes is None else InFlight(model, eos, token_bytes)
        self._switch = switch(model)

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return self._batched.busy or (self._flight is not None and self._flight.busy)

    @property
    def live(self) -> int:
        """How many rows are being generated."""
        return self._batched.live + (self._flight.live if self._flight else 0)

    @property
    def waiting(self) -> int:
        """How many rows wait for a place."""
        return len(self._batched.waiting) + (len(self._flight.waiting) if self._flight else 0)

    def add(self, row: Row, soon: bool = False) -> Decoding:
        """Lets a row wait for its turn; `soon` puts it before all others."""
        # A longrope model turns all positions of a step by the longest row: its long rows run apart.
        long = self._switch is not None and len(row.prompt) + row.max_new_tokens > self._switch
        place = self._batched if self._flight is None or long else self._flight
        return place.add(row, soon)

    def step(self) -> list[Decoding]:
        """Brings rows on, in flight by a token each; returns those that have news or have ended."""
        if self._flight is not None and self._flight.busy:
            return self._flight.step()
        return self._batched.step()


def token_bytes(model: PreTrainedModel, eos: frozenset[int]) -> int:
    """What the keys and values of one token take, found by generating in flight and comparing.

    Two sequences are read in pieces side by side, past the windows that the model has, and each has to give
    the logits that it gives alone.

    Raises:
        Unsupported: this model's rows cannot be in flight; the text says why.
    """
    if has_rules(model, eos):
        raise Unsupported("the checkpoint forces or forbids tokens")
    if is_sharded(model):
        raise Unsupported("the model is spread over several devices")
    if not packs(model):
        raise Unsupported("its attention or its cache is not made for it")
    long, *_, short = trial.prompts(model)
    slots = Slots()

    def alone() -> list[torch.Tensor]:
        return [model(torch.tensor([tokens], device=model.device)).logits[0] for tokens in (long, short)]

    try:
        with torch.inference_mode():
            with trial.narrowed(model):
                together, expected = _pieces(model, slots, long, short), alone()
            right = trial.heeds(model, together, expected, alone)
    except AdapterError:
        raise
    except Exception as error:  # A model's code is its author's.
        raise Unsupported(f"it failed on a trial: {type(error).__name__}: {error}") from error
    if not right:
        far = trial.difference(together, expected)
        raise Unsupported(f"a trial gave other logits than the model alone (by {far:.1e})")
    return slots.token_bytes


def _pieces(
    model: PreTrainedModel, slots: Slots, long: Sequence[int], short: Sequence[int]
) -> list[torch.Tensor]:
    """(tokens, vocabulary) the logits of two sequences that are read in pieces, side by side.

    Prompts are read in parts, and go on by one token where the other does and where it does not.
    """
    slots.resize(2, len(long))
    given: list[list[torch.Tensor]] = [[], []]
    middle = len(long) // 2
    cuts = [0, middle - 2, middle - 1, middle, len(long)], [0, 2, 3, 4, len(short)]
    for step in range(len(cuts[0]) - 1):
        segments = [
            Segment(slot, start, tokens[start:end])
            for slot, (tokens, cut) in enumerate(((long, cuts[0]), (short, cuts[1])))
            for start, end in [cut[step : step + 2]]
        ]
        plan = Step(slots, segments, model.device)
        places = range(len(plan.tokens))
        parts = logits(model, plan.tokens, plan.positions, plan, places)
        for segment, part in zip(
            plan.segments, parts.split([len(segment.tokens) for segment in plan.segments]), strict=True
        ):
            given[segment.slot].append(part)
    return [torch.cat(parts) for parts in given]
