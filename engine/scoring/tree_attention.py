"""Tree attention: sequences with a common prefix in one packed pass, the prefix read once."""

from collections.abc import Sequence

import torch

from engine.attention.parameters import AttentionParameters

# Query tokens whose attention is computed at a time, over the keys up to the last of them.
_BLOCK = 512
# Masks of trees of up to this many tokens are kept for all layers; larger ones would fill the memory.
_CACHED_TOKENS = 4096


class TreeMetadata:
    """Attention of trees: each has a trunk, and branches that continue it without seeing one another.

    Scoring candidates this way is the verification step of tree-structured speculative decoding (SpecInfer,
    2023) with every branch given in advance.

    Args:
        trees: for each tree the number of tokens of its trunk and of each branch, in packed order.
    """

    def __init__(self, trees: Sequence[tuple[int, list[int]]]) -> None:
        self.sizes = [trunk + sum(branches) for trunk, branches in trees]
        # For each tree, the position of each token in its sequence, and its branch (-1 for the trunk).
        self.positions = [
            torch.tensor([*range(trunk), *(trunk + i for n in branches for i in range(n))])
            for trunk, branches in trees
        ]
        self.branches = [
            torch.tensor([-1] * trunk + [i for i, n in enumerate(branches) for _ in range(n)])
            for trunk, branches in trees
        ]
        self.masks: dict[tuple[object, ...], torch.Tensor] = {}

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
        parts = zip(*(part[None].split(self.sizes, dim=2) for part in (query, key, value)), strict=True)
        for tree, (q, k, v) in enumerate(parts):
            for start in range(0, self.sizes[tree], _BLOCK):
                end = min(start + _BLOCK, self.sizes[tree])
                mask = self._mask(tree, start, end, parameters.sliding_window, q)
                outputs.append(parameters.attend(q[:, :, start:end], k[:, :, :end], v[:, :, :end], mask))
        return torch.cat(outputs, dim=2)[0].transpose(0, 1)

    def _mask(self, tree: int, start: int, end: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """The additive mask of a tree's tokens from start to end over those up to end.

        Returns:
            (1, 1, end - start, end), 0 or -inf, with the dtype and device of `like`.
        """
        key = (tree, start, window, like.device, like.dtype)
        if key in self.masks:
            return self.masks[key]
        position, branch = self.positions[tree][:end], self.branches[tree][:end]
        distance = position[start:, None] - position
        hidden = (distance < 0) | ((branch >= 0) & (branch != branch[start:, None]))
        if window is not None:
            hidden |= distance >= window
        mask = torch.zeros(1, 1, *hidden.shape, dtype=like.dtype).masked_fill_(hidden, -torch.inf)
        mask = mask.to(like.device)
        if self.sizes[tree] <= _CACHED_TOKENS:
            self.masks[key] = mask
        return mask
