"""Makes KV caches whose entries are all written."""

import torch

from engine.generation.kv_cache import Slots

HEADS, KEY_HEADS, DIM = 4, 2, 8


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def filled(rows: int, tokens: int) -> Slots:
    """Slots in which everything is written."""
    slots = Slots()
    slots.resize(rows, tokens)
    for row in range(rows):
        places = torch.arange(tokens)
        key, value = numbers(2, KEY_HEADS, tokens, DIM, seed=row)
        slots.write(0, torch.full_like(places, row), places, key, value)
    return slots


def held(slots: Slots) -> torch.Tensor:
    """(2, rows, key heads, tokens, dim): the keys and values of the first layer."""
    none = torch.empty(0, dtype=torch.long)
    return torch.stack(slots.write(0, none, none, *torch.empty(2, KEY_HEADS, 0, DIM)))
