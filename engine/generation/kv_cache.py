"""The KV cache: keys and values of the cached tokens, a slot for each running sequence.

This is not paged attention: a slot is one contiguous range, at least as long as its sequence may become. On a
CPU its memory is committed lazily, by the operating system, page by page as tokens are written. So a sequence
takes the memory of the tokens it has, and attention reads plain tensors.
"""

import math
import mmap
from collections.abc import Sequence

import torch

# Slots grow by blocks of this number of tokens.
BLOCK = 64


class KVCache:
    """The keys and values of all layers, in slots that are filled from their left end.

    Entries that hold no token are zero: masked positions get weight 0, but 0 x NaN would be NaN.

    Attributes:
        slots: number of slots.
        capacity: number of tokens that each slot has room for.
    """

    def __init__(self) -> None:
        self.slots = self.capacity = 0
        # Keys and values of each layer, (slots, KV heads, capacity, dim); made by the first write, which
        # has their shape.
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    @property
    def kv_token_bytes(self) -> int:
        """Bytes that one token takes in all layers."""
        return sum(
            part.shape[1] * part.shape[3] * part.element_size()
            for layer in self._layers.values()
            for part in layer
        )

    @property
    def nbytes(self) -> int:
        """Bytes of all slots, of which a CPU commits those that are written."""
        return self.slots * self.capacity * self.kv_token_bytes

    @property
    def layers(self) -> int:
        """Number of layers that have written."""
        return len(self._layers)

    def capacity_for(self, tokens: int) -> int:
        """The capacity after `resize` for slots of at least `tokens`: whole blocks, never less than now."""
        return max(self.capacity, -(-tokens // BLOCK) * BLOCK)

    def resize(self, slots: int, tokens: int, cached: Sequence[int] = ()) -> None:
        """Changes the number of slots, and makes each at least `tokens` long; slots never get shorter.

        Args:
            cached: number of tokens to keep, for each slot.

        Raises:
            torch.OutOfMemoryError: the new slots do not fit into a GPU's memory.
            OSError: they do not fit into the machine's.
        """
        self.slots, self.capacity = slots, self.capacity_for(tokens)
        for layer, parts in self._layers.items():
            keys, values = (self._empty_like(part) for part in parts)
            for slot, count in enumerate(cached[:slots]):
                for grown, part in zip((keys, values), parts, strict=True):
                    if count:  # Else there may have been no such slot.
                        grown[slot, :, :count] = part[slot, :, :count]
            self._layers[layer] = keys, values

    def _empty_like(self, part: torch.Tensor) -> torch.Tensor:
        """Zeros, (slots, KV heads, capacity, dim), for keys or values (…, KV heads, any, dim)."""
        shape = self.slots, part.shape[-3], self.capacity, part.shape[-1]
        if part.device.type != "cpu":
            return part.new_zeros(shape)
        # Lazily committed: the operating system provides a page when it is first written.
        memory = mmap.mmap(-1, math.prod(shape) * part.element_size())
        return torch.frombuffer(memory, dtype=part.dtype).view(shape)

    def clear(self) -> None:
        """Drops all slots and frees their memory."""
        self._layers.clear()
        self.slots = self.capacity = 0

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copies the first tokens of a slot into another one."""
        for layer in self._layers.values():
            for part in layer:
                part[target, :, :tokens] = part[source, :, :tokens]

    def zero(self, slot: int, start: int, end: int) -> None:
        """Zeroes a range of a slot's tokens, so that no NaN in it reaches the sequences beside it."""
        for layer in self._layers.values():
            for part in layer:
                part[slot, :, start:end] = 0

    def write(
        self, layer: int, slots: torch.Tensor, positions: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Stores keys and values of new tokens.

        Args:
            slots, positions: (tokens,) the slot of each token and its position there.
            key, value: (KV heads, tokens, dim).

        Returns:
            All keys and all values of the layer, (slots, KV heads, capacity, dim) each.
        """
        if layer not in self._layers:
            self._layers[layer] = self._empty_like(key), self._empty_like(value)
        cache = self._layers[layer]
        for part, new in zip(cache, (key, value), strict=True):
            part[slots, :, positions] = new.transpose(0, 1)
        return cache
