"""A step extends sequences: each token attends to its own sequence, whoever shares its call."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.attention.packed import Scoring
from engine.generation import step
from engine.generation.kv_cache import Slots
from engine.generation.step import Segment, Step, grouped
from tests.helpers.filled_caches import DIM, HEADS, KEY_HEADS, filled, held, numbers

pytestmark = pytest.mark.numeric


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


@pytest.mark.parametrize("call", [0, 10_000_000])
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
    cuts: list[tuple], window: int | None, softcap: float | None, call: int, monkeypatch
):
    monkeypatch.setattr(step, "CALL_BYTES", call)
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
        plan = Step(slots, segments, torch.device("cpu"))
        output = plan.attend(0, *packed, scoring)
        wanted = torch.cat([expected[s.slot][:, s.start : s.end] for s in segments], dim=1).transpose(0, 1)
        torch.testing.assert_close(output, wanted, atol=1e-5, rtol=1e-5)
        before = after


def test_a_step_lists_its_tokens_and_where_each_is_in_its_own_sequence():
    segments = [Segment(0, 7, [5]), Segment(2, 3, [6]), Segment(1, 2, [7, 8, 9])]
    slots = Slots()
    slots.resize(3, 12)
    plan = Step(slots, segments, torch.device("cpu"))
    assert plan.tokens == [5, 6, 7, 8, 9]
    assert plan.positions == [7, 3, 2, 3, 4]


def test_slots_that_no_segment_has_are_left_as_they_are():
    slots = filled(4, 12)
    before = held(slots)
    plan = Step(slots, [Segment(1, 5, [0]), Segment(3, 2, [0, 0])], torch.device("cpu"))
    plan.attend(0, numbers(HEADS, 3, DIM), *numbers(2, KEY_HEADS, 3, DIM), Scoring(None, None, None, True))
    after = held(slots)
    assert torch.equal(after[:, ::2], before[:, ::2])
    assert not torch.equal(after[:, 1::2], before[:, 1::2])


# Who attends together


def groups(ends: list[int], call: float) -> list[list[int]]:
    """The ends of segments in neighbouring slots, as they are grouped."""
    segments = [Segment(slot, end - 1, [0]) for slot, end in enumerate(ends)]
    return [[segment.end for segment in group] for group in grouped(segments, call)]


@pytest.mark.parametrize(
    ("ends", "expected"),
    [
        ([], []),
        ([7], [[7]]),
        ([50, 60, 70], [[50, 60, 70]]),
        ([50, 60, 4000], [[50, 60], [4000]]),
        ([50, 4000, 60], [[50], [4000], [60]]),
        ([3000, 50, 4000], [[3000], [50], [4000]]),
        ([4000, 3999, 3998], [[4000, 3999, 3998]]),
        ([4000, 3999, 50, 60], [[4000, 3999], [50, 60]]),
    ],
)
def test_sequences_attend_with_neighbours_about_as_long(ends: list[int], expected: list[list[int]]):
    assert groups(ends, call=200) == expected


def test_slots_between_count_for_a_group():
    near, far = Segment(0, 49, [0]), Segment(5, 49, [0])
    assert grouped([near, far], call=150) == [[near], [far]]
    assert grouped([near, far], call=250) == [[near, far]]


@given(st.lists(st.integers(1, 500), max_size=12), st.integers(0, 300))
def test_groups_keep_the_order_and_cost_no_more_than_one_group(ends: list[int], call: int):
    found = groups(ends, call)
    assert [end for group in found for end in group] == ends
    assert sum(call + len(group) * max(group) for group in found) <= call + len(ends) * max(ends, default=0)
