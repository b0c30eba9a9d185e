"""Token vectors → the vector of their text."""

from collections.abc import Callable, Sequence

import torch

# By the names of sentence-transformers, and `sum`. Each makes one vector from those of a text's tokens,
# (tokens, dim), and from their places in it, (tokens,), counted from 1.
POOLINGS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "cls": lambda states, places: states[0],
    "max": lambda states, places: states.amax(0),
    "mean": lambda states, places: states.mean(0),
    "mean_sqrt_len_tokens": lambda states, places: states.sum(0) / len(states) ** 0.5,
    "weightedmean": lambda states, places: places @ states / places.sum(),
    "lasttoken": lambda states, places: states[-1],
    "sum": lambda states, places: states.sum(0),
}


def pool(states: torch.Tensor, modes: Sequence[str], start: int = 0) -> torch.Tensor:
    """The vector of a text from those of its tokens; zeros where no token is left.

    Args:
        states: (tokens, dim), without padding.
        modes: names of `POOLINGS`; what they give is put one behind the other.
        start: so many of the first tokens (a prompt) are left out.

    Returns:
        (modes × dim,) in float32.
    """
    kept = states[start:].float()
    if not len(kept):
        return kept.new_zeros(len(modes) * kept.shape[1])
    places = torch.arange(start + 1, len(states) + 1, dtype=kept.dtype, device=kept.device)
    return torch.cat([POOLINGS[mode](kept, places) for mode in modes])
