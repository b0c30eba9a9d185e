"""The KV cache: each slot keeps its own keys and values."""

import pytest
import torch

from engine.generation.kv_cache import BLOCK, KVCache
from tests.helpers.filled_caches import DIM, KV_HEADS, cached, filled, numbers

pytestmark = pytest.mark.numeric


def test_slots_hold_whole_blocks():
    kv_cache = KVCache()
    kv_cache.resize(3, 1)
    assert (kv_cache.slots, kv_cache.capacity) == (3, BLOCK)
    kv_cache.resize(2, BLOCK + 1)
    assert (kv_cache.slots, kv_cache.capacity) == (2, 2 * BLOCK)


def test_slots_get_no_shorter():
    kv_cache = KVCache()
    kv_cache.resize(3, 2 * BLOCK)
    kv_cache.resize(3, 1)
    assert kv_cache.capacity == 2 * BLOCK


def test_what_is_written_is_where_it_belongs_and_the_rest_is_zero():
    kv_cache = KVCache()
    kv_cache.resize(3, 10)
    key, value = numbers(2, KV_HEADS, 2, DIM)
    keys, values = kv_cache.write(0, torch.tensor([2, 0]), torch.tensor([5, 7]), key, value)
    for part, new in ((keys, key), (values, value)):
        assert part.shape == (3, KV_HEADS, BLOCK, DIM)
        assert torch.equal(part[2, :, 5], new[:, 0])
        assert torch.equal(part[0, :, 7], new[:, 1])
        assert part.count_nonzero() == new.count_nonzero()


@pytest.mark.parametrize(("slots", "tokens"), [(5, 10), (3, 200), (1, 10), (2, 200)])
def test_resized_slots_keep_what_they_are_told_to(slots: int, tokens: int):
    kv_cache = filled(3, 10)
    before = cached(kv_cache)
    # A fourth is about to enter.
    kv_cache.resize(slots, tokens, [4, 10, 0, 0])
    after = cached(kv_cache)
    assert after.shape[1] == kv_cache.slots == slots
    for slot, count in enumerate([4, 10, 0][:slots]):
        assert torch.equal(after[:, slot, :, :count], before[:, slot, :, :count])
        assert after[:, slot, :, count:].count_nonzero() == 0


def test_a_slot_is_copied_as_far_as_it_is_told_to():
    kv_cache = filled(3, 10)
    before = cached(kv_cache)
    kv_cache.copy(2, 0, 6)
    after = cached(kv_cache)
    assert torch.equal(after[:, 0, :, :6], before[:, 2, :, :6])
    assert torch.equal(after[:, 0, :, 6:], before[:, 0, :, 6:])
    assert torch.equal(after[:, 1:], before[:, 1:])


def test_a_wiped_slot_is_zero_and_the_others_are_not():
    kv_cache = filled(3, 10)
    before = cached(kv_cache)
    kv_cache.zero(1, 0, 10)
    after = cached(kv_cache)
    assert after[:, 1].count_nonzero() == 0
    assert torch.equal(after[:, ::2], before[:, ::2])


def test_cleared_slots_hold_nothing_and_can_be_used_again():
    kv_cache = filled(3, 10)
    kv_cache.clear()
    assert (kv_cache.slots, kv_cache.capacity, kv_cache.kv_token_bytes, kv_cache.layers) == (0, 0, 0, 0)
    kv_cache.resize(2, 10)
    assert cached(kv_cache).shape == (2, 2, KV_HEADS, BLOCK, DIM)


def test_the_size_of_a_token_is_that_of_its_keys_and_values_in_all_layers():
    kv_cache = filled(1, 1)
    place = torch.tensor([0])
    kv_cache.write(1, place, place, torch.zeros(1, 1, DIM).half(), torch.zeros(1, 1, 2 * DIM).half())
    assert kv_cache.layers == 2
    assert kv_cache.kv_token_bytes == 4 * KV_HEADS * 2 * DIM + 2 * (DIM + 2 * DIM)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_slots_have_the_dtype_of_what_is_written(dtype: torch.dtype):
    kv_cache = KVCache()
    kv_cache.resize(1, 1)
    place = torch.tensor([0])
    keys, values = kv_cache.write(0, place, place, *numbers(2, KV_HEADS, 1, DIM).to(dtype))
    assert keys.dtype == values.dtype == dtype
