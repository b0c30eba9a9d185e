"""The keys and values of live sequences."""

import math
import mmap
from collections.abc import Sequence

import torch

# Slots grow by whole blocks of so many tokens.
BLOCK = 64


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

    @property
    def layers(self) -> int:
        """How many layers have written."""
        return len(self._layers)

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
