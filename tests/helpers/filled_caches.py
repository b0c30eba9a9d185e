"""Makes KV caches whose entries are written."""

import torch

from engine.generation.kv_cache import KVCache

HEADS, KV_HEADS, DIM = 4, 2, 8


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def filled(slots: int, tokens: int) -> KVCache:
    """A KV cache in which the first tokens of each slot are written."""
    kv_cache = KVCache()
    kv_cache.resize(slots, tokens)
    for slot in range(slots):
        positions = torch.arange(tokens)
        key, value = numbers(2, KV_HEADS, tokens, DIM, seed=slot)
        kv_cache.write(0, torch.full_like(positions, slot), positions, key, value)
    return kv_cache


def cached(kv_cache: KVCache) -> torch.Tensor:
    """(2, slots, KV heads, capacity, dim): the keys and values of the first layer."""
    none = torch.empty(0, dtype=torch.long)
    return torch.stack(kv_cache.write(0, none, none, *torch.empty(2, KV_HEADS, 0, DIM)))
