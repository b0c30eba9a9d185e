"""One forward pass of continuous batching: query chunks of several sequences, attending over the KV cache.

A decoding sequence contributes one token, a prefilling one a chunk of its prompt. All tokens are packed into
one row, so that the linear layers see no padding. Attention runs in attention batches: decoding sequences of
similar length share a call, each prefill chunk has one to itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch

from engine.attention.parameters import AttentionParameters, attention_mask
from engine.generation.kv_cache import KVCache

# The overhead of an attention call, as the bytes of KV cache that could be read in the same time: measured on
# CPUs, estimated from the launch overhead of kernels elsewhere.
CALL_BYTES, CALL_BYTES_GPU = 400_000, 100_000_000


@dataclass(frozen=True, slots=True)
class QueryChunk:
    """The tokens by which a step extends one sequence.

    Attributes:
        slot: the sequence's KV-cache slot.
        start: number of its tokens that are cached.
        known: token ids that follow them.
        draft: token ids that may follow these.
    """

    slot: int
    start: int
    known: Sequence[int]
    draft: Sequence[int] = ()

    @property
    def tokens(self) -> Sequence[int]:
        """All token ids that are computed."""
        return [*self.known, *self.draft] if self.draft else self.known

    @property
    def end(self) -> int:
        """Number of tokens that are cached after the step."""
        return self.start + len(self.tokens)


class ForwardBatch:
    """The packed inputs and the attention metadata of one forward pass.

    Attributes:
        chunks: in the order in which their tokens are packed.
        tokens: token ids of all chunks, concatenated.
        positions: position of each token in its own sequence.
    """

    def __init__(self, kv_cache: KVCache, chunks: Sequence[QueryChunk], device: torch.device) -> None:
        decoding = sorted((c for c in chunks if len(c.tokens) == 1), key=lambda chunk: chunk.slot)
        batches = [
            *attention_batches(decoding, _call_tokens(kv_cache, device)),
            *([chunk] for chunk in chunks if len(chunk.tokens) > 1),
        ]
        self.chunks = [chunk for batch in batches for chunk in batch]
        self.tokens = [token for chunk in self.chunks for token in chunk.tokens]
        self.positions = [position for chunk in self.chunks for position in range(chunk.start, chunk.end)]
        slots = [chunk.slot for chunk in self.chunks for _ in chunk.tokens]
        self._kv_cache = kv_cache
        self._slots, self._positions = torch.tensor([slots, self.positions], device=device)
        self._sizes = [sum(len(chunk.tokens) for chunk in batch) for batch in batches]
        split = self._slots.split(self._sizes), self._positions.split(self._sizes)
        self._batches = [AttentionBatch(*parts) for parts in zip(batches, *split, strict=True)]

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        parameters: AttentionParameters,
    ) -> torch.Tensor:
        """Writes the new keys and values into the cache and computes one layer's attention over it.

        Args:
            query: (heads, tokens, dim).
            key, value: (KV heads, tokens, dim), of the packed tokens only.

        Returns:
            (tokens, heads, value dim).
        """
        cache = self._kv_cache.write(layer, self._slots, self._positions, key, value)
        parts = zip(self._batches, query.split(self._sizes, dim=1), strict=True)
        outputs = [batch.attend(part, *cache, parameters) for batch, part in parts]
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]


class AttentionBatch:
    """Chunks that share an attention call: one of any length, or several of one token each.

    The call reads a contiguous range of slots; slots in between that have no chunk here are computed and
    dropped.
    """

    def __init__(self, chunks: Sequence[QueryChunk], slots: torch.Tensor, positions: torch.Tensor) -> None:
        """Takes chunks in the order of their slots.

        Args:
            slots, positions: (tokens,) the slot of each token and its position there.
        """
        self._chunks = chunks
        self._range = slice(chunks[0].slot, chunks[-1].slot + 1)
        self._width = self._range.stop - self._range.start
        self._longest = max(chunk.end for chunk in chunks)
        # Where the chunks are in the range; None where they fill it.
        self._rows = slots - self._range.start if self._width > len(chunks) else None
        self._positions = positions
        self._masks: dict[int | None, torch.Tensor | None] = {}

    def attend(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, parameters: AttentionParameters
    ) -> torch.Tensor:
        """Computes the attention of these chunks.

        Args:
            query: (heads, tokens, dim).
            keys, values: (slots, KV heads, capacity, dim), the whole cache of a layer.

        Returns:
            (tokens, heads, value dim).
        """
        cache = keys[self._range, :, : self._longest], values[self._range, :, : self._longest]
        mask = self._mask(parameters, query)
        if len(self._chunks) == 1:
            return parameters.attend(query[None], *cache, mask)[0].transpose(0, 1)
        rows = query.transpose(0, 1)
        if self._rows is not None:
            rows = rows.new_zeros(self._width, *rows.shape[1:]).index_copy_(0, self._rows, rows)
        output = parameters.attend(rows[:, :, None], *cache, mask)[:, :, 0]
        return output if self._rows is None else output[self._rows]

    def _mask(self, parameters: AttentionParameters, like: torch.Tensor) -> torch.Tensor | None:
        """The attention mask, made once for all layers with the same sliding window."""
        window = parameters.sliding_window
        if window not in self._masks:
            if len(self._chunks) == 1:
                tokens = len(self._chunks[0].tokens)
                self._masks[window] = attention_mask(tokens, self._longest, parameters, like)
            else:
                self._masks[window] = self._decode_mask(window, like)
        return self._masks[window]

    def _decode_mask(self, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """(width, 1, 1, longest): each token sees its own slot up to its own position."""
        last = self._positions[:, None]
        if self._rows is not None:
            last = last.new_zeros(self._width, 1).index_copy_(0, self._rows, last)
        position = torch.arange(self._longest, device=like.device)
        hidden = position > last
        if window is not None:
            hidden |= position <= last - window
        mask = torch.zeros(hidden.shape, dtype=like.dtype, device=like.device)
        return mask.masked_fill_(hidden, -torch.inf)[:, None, None]


def attention_batches(chunks: Sequence[QueryChunk], call_tokens: float) -> list[Sequence[QueryChunk]]:
    """Splits chunks of one token each into attention batches of little total cost.

    A batch costs its number of slots times its longest sequence, plus the overhead of a call. The chunks are
    recursively split at the cheapest point while that saves more than a call.

    Args:
        chunks: in the order of their slots.
        call_tokens: the overhead of a call, as the number of cached tokens that could be read in its time.
    """
    if len(chunks) < 2:
        return [chunks] if chunks else []
    ends = [chunk.end for chunk in chunks]
    longest_before = list(accumulate(ends, max))
    longest_after = list(accumulate(reversed(ends), max))[::-1]
    first, last = chunks[0].slot, chunks[-1].slot + 1
    costs = [
        (chunks[i - 1].slot + 1 - first) * longest_before[i - 1] + (last - chunks[i].slot) * longest_after[i]
        for i in range(1, len(chunks))
    ]
    cheapest = min(costs)
    if cheapest + call_tokens >= (last - first) * longest_before[-1]:
        return [chunks]
    split = 1 + costs.index(cheapest)
    return attention_batches(chunks[:split], call_tokens) + attention_batches(chunks[split:], call_tokens)


def _call_tokens(kv_cache: KVCache, device: torch.device) -> float:
    """The overhead of an attention call in one layer, in cached tokens."""
    size = CALL_BYTES if device.type == "cpu" else CALL_BYTES_GPU
    return size * kv_cache.layers / max(kv_cache.kv_token_bytes, 1)
