"""The plan by which one forward pass extends live sequences."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from engine.attention.packed import Scoring, visible
from engine.generation.kv_cache import Slots

# A call of attention takes about as long as reading so many bytes of keys and values. Measured on CPUs; for
# others reckoned from how long kernels take to be started.
CALL_BYTES, CALL_BYTES_ELSEWHERE = 1_000_000, 100_000_000


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
    """A plan that extends sequences: those that go on by one token attend in groups, all others one by one.

    Attributes:
        segments: in the order in which their tokens are packed.
        tokens, positions: of this row: token ids, and the place of each in its own sequence.
    """

    def __init__(self, slots: Slots, segments: Sequence[Segment], device: torch.device) -> None:
        single = sorted((s for s in segments if len(s.tokens) == 1), key=lambda segment: segment.slot)
        groups = [*grouped(single, _call(slots, device)), *([s] for s in segments if len(s.tokens) > 1)]
        self.segments = [segment for group in groups for segment in group]
        self.tokens = [token for segment in self.segments for token in segment.tokens]
        self.positions = [place for segment in self.segments for place in range(segment.start, segment.end)]
        owners = [segment.slot for segment in self.segments for _ in segment.tokens]
        self._slots = slots
        self._owners, self._places = torch.tensor([owners, self.positions], device=device)
        self._sizes = [sum(len(segment.tokens) for segment in group) for group in groups]
        split = self._owners.split(self._sizes), self._places.split(self._sizes)
        self._groups = [Group(*parts) for parts in zip(groups, *split, strict=True)]

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scoring: Scoring
    ) -> torch.Tensor:
        """See `engine.attention.packed.Plan`."""
        held = self._slots.write(layer, self._owners, self._places, key, value)
        parts = zip(self._groups, query.split(self._sizes, dim=1), strict=True)
        outputs = [group.attend(part, *held, scoring) for group, part in parts]
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]


class Group:
    """Segments that attend in one call: one of any length, or several of one token each.

    Slots between theirs take part, and are left out.
    """

    def __init__(self, segments: Sequence[Segment], owners: torch.Tensor, places: torch.Tensor) -> None:
        """Takes segments in the order of their slots.

        Args:
            owners, places: (tokens,) the slot of each token, and its place there.
        """
        self._segments = segments
        self._slots = slice(segments[0].slot, segments[-1].slot + 1)
        self._width = self._slots.stop - self._slots.start
        self._longest = max(segment.end for segment in segments)
        self._rows = owners - self._slots.start if self._width > len(segments) else None
        self._places = places
        self._masks: dict[int | None, torch.Tensor | None] = {}

    def attend(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scoring: Scoring
    ) -> torch.Tensor:
        """The attention of these tokens.

        Args:
            query: (heads, tokens, dim).
            keys, values: (slots, key heads, tokens, dim), of all slots.

        Returns:
            (tokens, heads, value dim).
        """
        held = keys[self._slots, :, : self._longest], values[self._slots, :, : self._longest]
        mask = self._mask(scoring, query)
        if len(self._segments) == 1:
            return scoring.attend(query[None], *held, mask)[0].transpose(0, 1)
        rows = query.transpose(0, 1)
        if self._rows is not None:
            rows = rows.new_zeros(self._width, *rows.shape[1:]).index_copy_(0, self._rows, rows)
        output = scoring.attend(rows[:, :, None], *held, mask)[:, :, 0]
        return output if self._rows is None else output[self._rows]

    def _mask(self, scoring: Scoring, like: torch.Tensor) -> torch.Tensor | None:
        """What these tokens do not see; made once for all layers of a kind."""
        if scoring.window not in self._masks:
            if len(self._segments) == 1:
                tokens = len(self._segments[0].tokens)
                self._masks[scoring.window] = visible(tokens, self._longest, scoring, like)
            else:
                self._masks[scoring.window] = self._mask_of_rows(scoring, like)
        return self._masks[scoring.window]

    def _mask_of_rows(self, scoring: Scoring, like: torch.Tensor) -> torch.Tensor:
        """(width, 1, 1, longest): each sees its own slot up to itself."""
        last = self._places[:, None]
        if self._rows is not None:
            last = last.new_zeros(self._width, 1).index_copy_(0, self._rows, last)
        place = torch.arange(self._longest, device=like.device)
        hidden = place > last
        if scoring.window is not None:
            hidden |= place <= last - scoring.window
        mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
        return mask.masked_fill_(hidden, -torch.inf)[:, None, None]


def grouped(segments: Sequence[Segment], call: float) -> list[Sequence[Segment]]:
    """Segments of one token each, in groups; a group pays its longest for each slot, and a call.

    Split in two where that saves most, and each part again, as long as it saves more than a call.

    Args:
        segments: in the order of their slots.
        call: a call of attention takes as long as reading the keys and values of so many tokens.
    """
    if len(segments) < 2:
        return [segments] if segments else []
    ends = [segment.end for segment in segments]
    before = list(accumulate(ends, max))
    behind = list(accumulate(reversed(ends), max))[::-1]
    first, last = segments[0].slot, segments[-1].slot + 1
    costs = [
        (segments[i - 1].slot + 1 - first) * before[i - 1] + (last - segments[i].slot) * behind[i]
        for i in range(1, len(segments))
    ]
    cheapest = min(costs)
    if cheapest + call >= (last - first) * before[-1]:
        return [segments]
    split = 1 + costs.index(cheapest)
    return grouped(segments[:split], call) + grouped(segments[split:], call)


def _call(slots: Slots, device: torch.device) -> float:
    """What `grouped` takes: a call of attention, in tokens."""
    size = CALL_BYTES if device.type == "cpu" else CALL_BYTES_ELSEWHERE
    return size * slots.layers / max(slots.token_bytes, 1)
