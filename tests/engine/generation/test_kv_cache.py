"""Keys and values of live sequences: each slot keeps its own."""

import pytest
import torch

from engine.generation.kv_cache import BLOCK, Slots
from tests.helpers.filled_caches import DIM, KEY_HEADS, filled, held, numbers

pytestmark = pytest.mark.numeric


def test_slots_hold_whole_blocks():
    slots = Slots()
    slots.resize(3, 1)
    assert (slots.rows, slots.tokens) == (3, BLOCK)
    slots.resize(2, BLOCK + 1)
    assert (slots.rows, slots.tokens) == (2, 2 * BLOCK)


def test_slots_get_no_shorter():
    slots = Slots()
    slots.resize(3, 2 * BLOCK)
    slots.resize(3, 1)
    assert slots.tokens == 2 * BLOCK


def test_what_is_written_is_where_it_belongs_and_the_rest_is_zero():
    slots = Slots()
    slots.resize(3, 10)
    key, value = numbers(2, KEY_HEADS, 2, DIM)
    keys, values = slots.write(0, torch.tensor([2, 0]), torch.tensor([5, 7]), key, value)
    for part, new in ((keys, key), (values, value)):
        assert part.shape == (3, KEY_HEADS, BLOCK, DIM)
        assert torch.equal(part[2, :, 5], new[:, 0])
        assert torch.equal(part[0, :, 7], new[:, 1])
        assert part.count_nonzero() == new.count_nonzero()


@pytest.mark.parametrize(("rows", "tokens"), [(5, 10), (3, 200), (1, 10), (2, 200)])
def test_resized_slots_keep_what_they_are_told_to(rows: int, tokens: int):
    slots = filled(3, 10)
    before = held(slots)
    # A fourth is about to enter.
    slots.resize(rows, tokens, [4, 10, 0, 0])
    after = held(slots)
    assert after.shape[1] == slots.rows == rows
    for slot, count in enumerate([4, 10, 0][:rows]):
        assert torch.equal(after[:, slot, :, :count], before[:, slot, :, :count])
        assert after[:, slot, :, count:].count_nonzero() == 0


def test_a_slot_is_copied_as_far_as_it_is_told_to():
    slots = filled(3, 10)
    before = held(slots)
    slots.copy(2, 0, 6)
    after = held(slots)
    assert torch.equal(after[:, 0, :, :6], before[:, 2, :, :6])
    assert torch.equal(after[:, 0, :, 6:], before[:, 0, :, 6:])
    assert torch.equal(after[:, 1:], before[:, 1:])


def test_a_wiped_slot_is_zero_and_the_others_are_not():
    slots = filled(3, 10)
    before = held(slots)
    slots.wipe(1, 10)
    after = held(slots)
    assert after[:, 1].count_nonzero() == 0
    assert torch.equal(after[:, ::2], before[:, ::2])


def test_cleared_slots_hold_nothing_and_can_be_used_again():
    slots = filled(3, 10)
    slots.clear()
    assert (slots.rows, slots.tokens, slots.token_bytes, slots.layers) == (0, 0, 0, 0)
    slots.resize(2, 10)
    assert held(slots).shape == (2, 2, KEY_HEADS, BLOCK, DIM)


def test_the_size_of_a_token_is_that_of_its_keys_and_values_in_all_layers():
    slots = filled(1, 1)
    place = torch.tensor([0])
    slots.write(1, place, place, torch.zeros(1, 1, DIM).half(), torch.zeros(1, 1, 2 * DIM).half())
    assert slots.layers == 2
    assert slots.token_bytes == 4 * KEY_HEADS * 2 * DIM + 2 * (DIM + 2 * DIM)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_slots_have_the_dtype_of_what_is_written(dtype: torch.dtype):
    slots = Slots()
    slots.resize(1, 1)
    place = torch.tensor([0])
    keys, values = slots.write(0, place, place, *numbers(2, KEY_HEADS, 1, DIM).to(dtype))
    assert keys.dtype == values.dtype == dtype
