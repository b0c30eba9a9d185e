"""Pooling: from the hidden states of a text's tokens to the embedding of the text."""

from collections.abc import Callable, Sequence

import torch

# Names as in sentence-transformers, and `sum`. Each maps hidden states (tokens, dim) and the positions of
# their tokens in the text (tokens,), counted from 1, to an embedding (dim,).
POOLINGS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cls": lambda states, positions: states[0],
    "max": lambda states, positions: states.amax(0),
    "mean": lambda states, positions: states.mean(0),
    "mean_sqrt_len_tokens": lambda states, positions: states.sum(0) / len(states) ** 0.5,
    "weightedmean": lambda states, positions: positions @ states / positions.sum(),
    "lasttoken": lambda states, positions: states[-1],
    "sum": lambda states, positions: states.sum(0),
}


def pool(states: torch.Tensor, modes: Sequence[str], start: int = 0) -> torch.Tensor:
    """The embedding of a text; zeros if no token is left to pool.

    Args:
        states: hidden states (tokens, dim), without padding.
        modes: names in `POOLINGS`; their results are concatenated.
        start: how many of the first tokens (a prompt) are left out.

    Returns:
        float32 (modes × dim,).
    """
    kept = states[start:].float()
    if not len(kept):
        return kept.new_zeros(len(modes) * kept.shape[1])
    positions = torch.arange(start + 1, len(states) + 1, dtype=kept.dtype, device=kept.device)
    return torch.cat([POOLINGS[mode](kept, positions) for mode in modes])
