"""The keys and values of live sequences, and the plan by which one forward pass extends them."""

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.packing import Scoring, visible

# Slots grow by whole blocks of so many tokens.
BLOCK = 64
# A call of attention takes about as long as reading the keys and values of so many tokens.
CALL = 200


class Slots:
    """A slot for each sequence, filled from its left end on.

    What a slot does not hold is zero: attention passes over it with a weight of 0, which a NaN would survive.

    Attributes:
        rows, tokens: how many slots there are, and how many tokens each of them holds.
    """

    def __init__(self) -> None:
        self.rows = self.tokens = 0
        # By layer: (rows, key heads, tokens, dim) twice; made at its first write, which tells its shape.
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def token_bytes(self) -> int:
        """What one token takes in all layers."""
        return sum(
            part.shape[1] * part.shape[3] * part.element_size()
            for layer in self._layers.values()
            for part in layer
        )

    def resize(self, rows: int, tokens: int, held: Sequence[int] = ()) -> None:
        """Makes it so many slots of at least so many tokens.

        Args:
            held: how many tokens of each slot stay.

        Raises:
            torch.OutOfMemoryError: they do not fit.
        """
        self.rows, self.tokens = rows, max(self.tokens, -(-tokens // BLOCK) * BLOCK)
        for layer, parts in self._layers.items():
            keys, values = (self._like(part) for part in parts)
            for slot, count in enumerate(held[:rows]):
                for grown, part in zip((keys, values), parts, strict=True):
                    if count:  # Else there may have been no such slot.
                        grown[slot, :, :count] = part[slot, :, :count]
            self._layers[layer] = keys, values

    def _like(self, part: torch.Tensor) -> torch.Tensor:
        """(rows, key heads, tokens, dim) for keys or values (…, key heads, any, dim)."""
        shape = self.rows, part.shape[-3], self.tokens, part.shape[-1]
        if part.device.type != "cpu":
            return part.new_zeros(shape)
        # Pages that the system hands out when they are first written: a short sequence takes what it holds.
        memory = mmap.mmap(-1, math.prod(shape) * part.element_size())
        return torch.frombuffer(memory, dtype=part.dtype).view(shape)

    def clear(self) -> None:
        """Gives the memory back."""
        self._layers.clear()
        self.rows = self.tokens = 0

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copies what a slot holds of its first tokens into another slot."""
        for layer in self._layers.values():
            for part in layer:
                part[target, :, :tokens] = part[source, :, :tokens]

    def wipe(self, slot: int, tokens: int) -> None:
        """Makes the first tokens of a slot zero again: no number there is left to meet another sequence."""
        for layer in self._layers.values():
            for part in layer:
                part[slot, :, :tokens] = 0

    def write(
        self, layer: int, slots: torch.Tensor, places: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Puts the keys and values of some tokens where they belong.

        Args:
            slots, places: (tokens,) the slot of each token and its place there.
            key, value: (key heads, tokens, dim).

        Returns:
            All keys and all values of the layer, (rows, key heads, tokens, dim).
        """
        if layer not in self._layers:
            self._layers[layer] = self._like(key), self._like(value)
        held = self._layers[layer]
        for part, new in zip(held, (key, value), strict=True):
            part[slots, :, places] = new.transpose(0, 1)
        return held


@dataclass(frozen=True, slots=True)
class Segment:
    """The next tokens of one sequence.

    Attributes:
        slot: where the sequence is held.
        start: how many of its tokens are held already.
        tokens: token ids that follow them.
    """

    slot: int
    start: int
    tokens: Sequence[int]

    @property
    def end(self) -> int:
        """How many tokens are held when these are."""
        return self.start + len(self.tokens)


class Step:
    """A plan that extends sequences: most that go on by one token attend together, all others one by one.

    Attributes:
        segments: in the order in which their tokens are packed.
        tokens, positions: of this row: token ids, and the place of each in its own sequence.
    """

    def __init__(self, slots: Slots, segments: Sequence[Segment], device: torch.device) -> None:
        self.slots = slots
        self._longest = widest([segment.end for segment in segments if len(segment.tokens) == 1])
        self._together = [s for s in segments if len(s.tokens) == 1 and s.end <= self._longest]
        self._alone = [s for s in segments if len(s.tokens) > 1 or s.end > self._longest]
        self.segments = self._together + self._alone
        self.tokens = [token for segment in self.segments for token in segment.tokens]
        self.positions = [place for segment in self.segments for place in range(segment.start, segment.end)]
        owners = [segment.slot for segment in self.segments for _ in segment.tokens]
        self._owners, self._places = torch.tensor([owners, self.positions], device=device)
        self._width = 1 + max((segment.slot for segment in self._together), default=-1)
        self._masks: dict[tuple[int, int | None], torch.Tensor | None] = {}

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scoring: Scoring
    ) -> torch.Tensor:
        """See `engine.packing.Plan`."""
        keys, values = self.slots.write(layer, self._owners, self._places, key, value)
        outputs, start = [], len(self._together)
        if self._together:
            outputs.append(self._attend_together(query[:, :start], keys, values, scoring))
        for number, segment in enumerate(self._alone):
            part, start = query[None, :, start : start + len(segment.tokens)], start + len(segment.tokens)
            mask = self._mask(number, scoring, part)
            row = slice(segment.slot, segment.slot + 1)
            held = keys[row, :, : segment.end], values[row, :, : segment.end]
            outputs.append(scoring.attend(part, *held, mask)[0].transpose(0, 1))
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]

    def _attend_together(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scoring: Scoring
    ) -> torch.Tensor:
        """(heads, rows, dim) → (rows, heads, dim); slots between these take part and are left out."""
        rows = query.transpose(0, 1)
        count = len(self._together)
        if count < self._width:
            scattered = rows.new_zeros(self._width, *rows.shape[1:])
            rows = scattered.index_copy_(0, self._owners[:count], rows)
        held = keys[: self._width, :, : self._longest], values[: self._width, :, : self._longest]
        output = scoring.attend(rows[:, :, None], *held, self._mask(-1, scoring, rows))[:, :, 0]
        return output if count == self._width else output[self._owners[:count]]

    def _mask(self, number: int, scoring: Scoring, like: torch.Tensor) -> torch.Tensor | None:
        """The mask of a segment that attends alone, or (-1) of the others; made once for all layers."""
        known = number, scoring.window
        if known not in self._masks:
            if number >= 0:
                segment = self._alone[number]
                self._masks[known] = visible(len(segment.tokens), segment.end, scoring, like)
            else:
                self._masks[known] = self._mask_together(scoring, like)
        return self._masks[known]

    def _mask_together(self, scoring: Scoring, like: torch.Tensor) -> torch.Tensor | None:
        """(width, 1, 1, longest): each sees its own slot up to itself."""
        last = torch.zeros(self._width, 1, dtype=torch.long, device=like.device)
        count = len(self._together)
        last[self._owners[:count], 0] = self._places[:count]
        place = torch.arange(self._longest, device=like.device)
        hidden = place > last
        if scoring.window is not None:
            hidden |= place <= last - scoring.window
        mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
        return mask.masked_fill_(hidden, -torch.inf)[:, None, None]


def widest(ends: Sequence[int]) -> int:
    """The length up to which rows attend together, at the price of the longest; longer ones cost less alone.

    Args:
        ends: tokens of each row, itself included.
    """
    ordered = sorted(ends, reverse=True)
    costs = [
        alone * CALL + sum(ordered[:alone]) + (len(ordered) - alone) * longest
        for alone, longest in enumerate(ordered)
    ]
    return ordered[costs.index(min(costs))] if ordered else 0
