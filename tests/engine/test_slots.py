"""Keys and values of live sequences: each slot keeps its own, and a step attends to no other."""

import pytest
import torch

from engine.packing import Scoring
from engine.slots import BLOCK, Segment, Slots, Step, widest

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


# What slots hold


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
    assert (slots.rows, slots.tokens, slots.token_bytes) == (0, 0, 0)
    slots.resize(2, 10)
    assert held(slots).shape == (2, 2, KEY_HEADS, BLOCK, DIM)


def test_the_size_of_a_token_is_that_of_its_keys_and_values_in_all_layers():
    slots = filled(1, 1)
    place = torch.tensor([0])
    slots.write(1, place, place, torch.zeros(1, 1, DIM).half(), torch.zeros(1, 1, 2 * DIM).half())
    assert slots.token_bytes == 4 * KEY_HEADS * 2 * DIM + 2 * (DIM + 2 * DIM)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_slots_have_the_dtype_of_what_is_written(dtype: torch.dtype):
    slots = Slots()
    slots.resize(1, 1)
    place = torch.tensor([0])
    keys, values = slots.write(0, place, place, *numbers(2, KEY_HEADS, 1, DIM).to(dtype))
    assert keys.dtype == values.dtype == dtype


# A step


def naive(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scoring: Scoring) -> torch.Tensor:
    """(heads, tokens, dim): the attention of a whole sequence, written down as it is defined."""
    key, value = (part.repeat_interleave(HEADS // KEY_HEADS, 0) for part in (key, value))
    scores = query @ key.transpose(1, 2) * scoring.scale
    if scoring.softcap is not None:
        scores = scoring.softcap * torch.tanh(scores / scoring.softcap)
    distance = torch.arange(len(key[0]))[:, None] - torch.arange(len(key[0]))
    hidden = distance < 0
    if scoring.window is not None:
        hidden |= distance >= scoring.window
    return scores.masked_fill(hidden, -torch.inf).softmax(-1) @ value


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("window", [None, 1, 4, 100])
@pytest.mark.parametrize(
    "cuts",
    [
        # How far each of three sequences is read in each step.
        [(1, 1, 1), (2, 2, 2), (3, 3, 3)],
        [(9, 4, 7), (10, 5, 8), (11, 6, 12)],
        [(5, 0, 0), (6, 12, 0), (7, 12, 1), (12, 12, 12)],
        [(0, 0, 3), (4, 0, 4), (4, 0, 5), (5, 1, 12)],
    ],
)
def test_steps_attend_as_each_whole_sequence_does(
    cuts: list[tuple], window: int | None, softcap: float | None
):
    scoring = Scoring(0.3, window, softcap, causal=True)
    query = numbers(3, HEADS, 12, DIM, seed=1)
    key, value = numbers(2, 3, KEY_HEADS, 12, DIM, seed=2)
    expected = [naive(query[i], key[i], value[i], scoring) for i in range(3)]
    slots = Slots()
    slots.resize(3, 12)
    before = (0, 0, 0)
    for after in cuts:
        segments = [
            Segment(slot, start, [0] * (end - start))
            for slot, (start, end) in enumerate(zip(before, after, strict=True))
            if end > start
        ]
        segments.sort(key=lambda segment: len(segment.tokens) > 1)
        packed = [
            torch.cat([part[s.slot, :, s.start : s.end] for s in segments], dim=1)
            for part in (query, key, value)
        ]
        step = Step(slots, segments, torch.device("cpu"))
        output = step.attend(0, *packed, scoring)
        wanted = torch.cat([expected[s.slot][:, s.start : s.end] for s in segments], dim=1).transpose(0, 1)
        torch.testing.assert_close(output, wanted, atol=1e-5, rtol=1e-5)
        before = after


def test_a_step_lists_its_tokens_and_where_each_is_in_its_own_sequence():
    segments = [Segment(0, 7, [5]), Segment(2, 3, [6]), Segment(1, 2, [7, 8, 9])]
    slots = Slots()
    slots.resize(3, 12)
    step = Step(slots, segments, torch.device("cpu"))
    assert step.tokens == [5, 6, 7, 8, 9]
    assert step.positions == [7, 3, 2, 3, 4]


def test_slots_that_no_segment_has_are_left_as_they_are():
    slots = filled(4, 12)
    before = held(slots)
    step = Step(slots, [Segment(1, 5, [0]), Segment(3, 2, [0, 0])], torch.device("cpu"))
    step.attend(0, numbers(HEADS, 3, DIM), *numbers(2, KEY_HEADS, 3, DIM), Scoring(None, None, None, True))
    after = held(slots)
    assert torch.equal(after[:, ::2], before[:, ::2])
    assert not torch.equal(after[:, 1::2], before[:, 1::2])


# Who attends together


@pytest.mark.parametrize(
    ("ends", "longest"),
    [
        ([], 0),
        ([7], 7),
        ([50, 60, 70], 70),
        ([50, 4000, 60], 60),
        ([3000, 50, 4000], 50),
        ([4000, 3999, 3998], 4000),
    ],
)
def test_a_sequence_far_longer_than_the_others_attends_alone(ends: list[int], longest: int):
    assert widest(ends) == longest
