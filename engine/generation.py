"""Rows in, tokens and log-probabilities out: in flight where the model allows it, else in batches.

Knows no text: what ends a row early is a function of its tokens.
"""

import torch
from transformers import PreTrainedModel

from engine.batched import Batched, has_rules
from engine.choosing import Decoding, Row
from engine.errors import AdapterError, Unsupported
from engine.inflight import InFlight
from engine.packing import logits, packs, switch, trial_tolerance
from engine.slots import Slots
from engine.step import Segment, Step
from engine.weights import is_spread


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
    ) -> None:
        """Nothing runs before the first step.

        Args:
            eos: token ids that end a sequence.
            pad: the id that fills short rows of a batch.
            window: the most tokens that prompt and answer may have together; None where there is no bound.
            token_bytes: as `token_bytes` found it; None for a model whose rows cannot be in flight.
        """
        self._batched = Batched(model, eos, pad, window)
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

    A short sequence is read in three pieces beside another, and has to give the logits that it gives alone.

    Raises:
        Unsupported: this model's rows cannot be in flight; the text says why.
    """
    if has_rules(model, eos):
        raise Unsupported("the checkpoint forces or forbids tokens")
    if is_spread(model):
        raise Unsupported("the model is spread over several devices")
    if not packs(model):
        raise Unsupported("its attention or its cache is not made for it")
    size = model.config.get_text_config(decoder=True).vocab_size
    tokens = [(7 + 13 * i) % size for i in range(8)]
    slots = Slots()
    slots.resize(2, len(tokens))
    pieces: list[torch.Tensor] = []
    try:
        for start, end in ((0, 4), (4, 5), (5, 8)):
            # The other sequence is one token short of the first, so that slots differ in length.
            other = Segment(0, max(start - 1, 0), tokens[max(start - 1, 0) : end - 1])
            both = Segment(1, start, tokens[start:end]), other
            segments = sorted(both, key=lambda segment: (len(segment.tokens), segment.slot))
            plan = Step(slots, segments, model.device)
            first = 0 if segments[0].slot == 1 else len(segments[0].tokens)
            places = range(first, first + end - start)
            pieces.append(logits(model, plan.tokens, plan.positions, plan, places).float())
        with torch.inference_mode():
            alone = model(torch.tensor([tokens], device=model.device)).logits[0].float()
    except AdapterError:
        raise
    except Exception as error:  # A model's code is its author's.
        raise Unsupported(f"it failed on a trial: {type(error).__name__}: {error}") from error
    difference = (torch.cat(pieces) - alone).norm() / alone.norm()
    if difference > trial_tolerance(model.dtype):
        raise Unsupported(f"a trial gave other logits than the model alone (by {difference:.1e})")
    return slots.token_bytes
