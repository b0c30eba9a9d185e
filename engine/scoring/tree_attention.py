"""Tree attention: sequences with common prefixes in one packed pass, each distinct prefix read once."""

from collections.abc import Sequence

import torch

from engine.attention.parameters import AttentionParameters

# Query tokens whose attention is computed at a time.
_BLOCK = 128
# Masks over up to this many keys are kept for all layers; larger ones would fill the memory.
_CACHED_KEYS = 4096


class TreeMetadata:
    """Attention of packed prefix trees: each token attends to its ancestors and itself.

    Scoring candidates this way is the verification step of tree-structured speculative decoding (SpecInfer,
    2023) with every branch given in advance.

    In depth-first order the descendants of a token follow it, up to its end. So what a block of tokens
    attends to lies in the block and on the path from the root to its first token.

    Args:
        depths: the depth of each token in its tree, which is its position; depth-first, the roots at 0.
    """

    def __init__(self, depths: Sequence[int]) -> None:
        ends = [len(depths)] * len(depths)
        # For each block, the tokens that it attends to: a slice where they are contiguous.
        self.keys: list[slice | torch.Tensor] = []
        path: list[int] = []
        for i, depth in enumerate(depths):
            for ended in path[depth:]:
                ends[ended] = i
            del path[depth:]
            if i % _BLOCK == 0:
                start, end = i - len(path), min(i + _BLOCK, len(depths))
                contiguous = not path or path[0] == start
                self.keys.append(slice(start, end) if contiguous else torch.tensor([*path, *range(i, end)]))
            path.append(i)
        self.depths, self.ends = torch.tensor(depths), torch.tensor(ends)
        self._cache: dict[tuple[object, ...], tuple[slice | torch.Tensor, torch.Tensor]] = {}

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        parameters: AttentionParameters,
    ) -> torch.Tensor:
        """Attention of one layer over the packed trees.

        Args:
            query: (heads, tokens, dim).
            key, value: (KV heads, tokens, dim).

        Returns:
            (tokens, heads, value dim).
        """
        outputs = []
        for block, q in enumerate(query[None].split(_BLOCK, dim=2)):
            keys, mask = self._visible(block, parameters.sliding_window, q)
            outputs.append(parameters.attend(q, key[None, :, keys], value[None, :, keys], mask))
        return torch.cat(outputs, dim=2)[0].transpose(0, 1)

    def _visible(
        self, block: int, window: int | None, like: torch.Tensor
    ) -> tuple[slice | torch.Tensor, torch.Tensor]:
        """The tokens that a block attends to, and its additive mask over them.

        Returns:
            The keys, and (1, 1, tokens, keys), 0 or -inf, with the dtype and device of `like`.
        """
        cached = (block, window, like.device, like.dtype)
        if cached in self._cache:
            return self._cache[cached]
        keys = self.keys[block]
        everything = torch.arange(len(self.depths))
        key, token = everything[keys], everything[block * _BLOCK :][:_BLOCK, None]
        hidden = (key > token) | (token >= self.ends[key])
        if window is not None:
            hidden |= self.depths[token] - self.depths[key] >= window
        mask = torch.zeros(1, 1, *hidden.shape, dtype=like.dtype).masked_fill_(hidden, -torch.inf)
        visible = keys if isinstance(keys, slice) else keys.to(like.device), mask.to(like.device)
        if len(key) <= _CACHED_KEYS:
            self._cache[cached] = visible
        return visible
