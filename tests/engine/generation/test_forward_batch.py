"""A forward batch: each token attends to its own sequence, whichever chunks share its attention call."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.attention.parameters import AttentionParameters
from engine.generation import forward_batch
from engine.generation.forward_batch import ForwardBatch, QueryChunk, attention_batches
from engine.generation.kv_cache import KVCache
from tests.helpers.filled_caches import DIM, HEADS, KV_HEADS, cached, filled, numbers

pytestmark = pytest.mark.numeric


def naive(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, parameters: AttentionParameters
) -> torch.Tensor:
    """(heads, tokens, dim): the attention of a whole sequence, written down as it is defined."""
    key, value = (part.repeat_interleave(HEADS // KV_HEADS, 0) for part in (key, value))
    scores = query @ key.transpose(1, 2) * parameters.scale
    if parameters.softcap is not None:
        scores = parameters.softcap * torch.tanh(scores / parameters.softcap)
    distance = torch.arange(len(key[0]))[:, None] - torch.arange(len(key[0]))
    hidden = distance < 0
    if parameters.sliding_window is not None:
        hidden |= distance >= parameters.sliding_window
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
    monkeypatch.setattr(forward_batch, "CALL_BYTES", call)
    parameters = AttentionParameters(0.3, window, softcap, causal=True)
    query = numbers(3, HEADS, 12, DIM, seed=1)
    key, value = numbers(2, 3, KV_HEADS, 12, DIM, seed=2)
    expected = [naive(query[i], key[i], value[i], parameters) for i in range(3)]
    kv_cache = KVCache()
    kv_cache.resize(3, 12)
    before = (0, 0, 0)
    for after in cuts:
        chunks = [
            QueryChunk(slot, start, [0] * (end - start))
            for slot, (start, end) in enumerate(zip(before, after, strict=True))
            if end > start
        ]
        chunks.sort(key=lambda chunk: len(chunk.tokens) > 1)
        packed = [
            torch.cat([part[s.slot, :, s.start : s.end] for s in chunks], dim=1)
            for part in (query, key, value)
        ]
        batch = ForwardBatch(kv_cache, chunks, torch.device("cpu"))
        output = batch.attend(0, *packed, parameters)
        wanted = torch.cat([expected[s.slot][:, s.start : s.end] for s in chunks], dim=1).transpose(0, 1)
        torch.testing.assert_close(output, wanted, atol=1e-5, rtol=1e-5)
        before = after


def test_a_step_lists_its_tokens_and_where_each_is_in_its_own_sequence():
    chunks = [QueryChunk(0, 7, [5]), QueryChunk(2, 3, [6]), QueryChunk(1, 2, [7, 8, 9])]
    kv_cache = KVCache()
    kv_cache.resize(3, 12)
    batch = ForwardBatch(kv_cache, chunks, torch.device("cpu"))
    assert batch.tokens == [5, 6, 7, 8, 9]
    assert batch.positions == [7, 3, 2, 3, 4]


def test_slots_that_no_chunk_has_are_left_as_they_are():
    kv_cache = filled(4, 12)
    before = cached(kv_cache)
    batch = ForwardBatch(kv_cache, [QueryChunk(1, 5, [0]), QueryChunk(3, 2, [0, 0])], torch.device("cpu"))
    batch.attend(
        0, numbers(HEADS, 3, DIM), *numbers(2, KV_HEADS, 3, DIM), AttentionParameters(None, None, None, True)
    )
    after = cached(kv_cache)
    assert torch.equal(after[:, ::2], before[:, ::2])
    assert not torch.equal(after[:, 1::2], before[:, 1::2])


# Who attends together


def groups(ends: list[int], call: float) -> list[list[int]]:
    """The ends of chunks in neighbouring slots, as they are grouped."""
    chunks = [QueryChunk(slot, end - 1, [0]) for slot, end in enumerate(ends)]
    return [[chunk.end for chunk in group] for group in attention_batches(chunks, call)]


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
    near, far = QueryChunk(0, 49, [0]), QueryChunk(5, 49, [0])
    assert attention_batches([near, far], call_tokens=150) == [[near], [far]]
    assert attention_batches([near, far], call_tokens=250) == [[near, far]]


@given(st.lists(st.integers(1, 500), max_size=12), st.integers(0, 300))
def test_groups_keep_the_order_and_cost_no_more_than_one_group(ends: list[int], call: int):
    found = groups(ends, call)
    assert [end for group in found for end in group] == ends
    assert sum(call + len(group) * max(group) for group in found) <= call + len(ends) * max(ends, default=0)
