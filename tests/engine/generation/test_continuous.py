"""Continuous batching: sequences join and leave at every step, and nothing is computed twice."""

from itertools import pairwise

import pytest

from engine.batching import common_prefix
from engine.generation import continuous
from engine.generation.kv_cache import KVCache
from tests import tiny
from tests.helpers.sequences import (
    alone,
    finish,
    generator,
    kv_token_bytes,
    prompt,
    random_request,
    request,
    running_counts,
    seen,
    steps,
    tokens,
)

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def llama():
    return tiny.random_model("llama")


@pytest.fixture(autouse=True)
def no_step_fails(caplog: pytest.LogCaptureFixture):
    """A step that fails is recomputed with fewer sequences: the answers would not show it."""
    yield
    assert "failed" not in caplog.text


def tokens_seen(model, requests) -> int:
    """The number of tokens that the model computes to answer some requests together."""
    run = generator(model, eos=())
    for one in requests:
        run.add(one)
    with seen(model) as passes:
        finish(run)
    return sum(ids.numel() for ids in passes)


# Rows come and go


def test_a_sequence_that_ends_leaves_at_once_and_the_next_takes_its_place(llama, monkeypatch):
    monkeypatch.setattr(continuous, "MAX_SEQUENCES", 2)
    run = generator(llama, eos=())
    for length, answer_length in ((9, 20), (10, 3), (11, 3), (12, 3), (13, 3)):
        run.add(random_request(length, answer_length))
    ended = finish(run)
    assert [len(sequence.request.prompt) for sequence in ended] == [10, 11, 12, 13, 9]


def test_a_run_of_unequal_sequences_takes_as_many_steps_as_they_fill(llama, monkeypatch):
    monkeypatch.setattr(continuous, "MAX_SEQUENCES", 2)
    run = generator(llama, eos=())
    for length, answer_length in ((9, 12), (10, 3), (11, 3), (12, 3), (13, 3)):
        run.add(random_request(length, answer_length))
    # The first token comes with the prompt: 12 steps of one sequence beside 4 times 3 of the others.
    assert len(running_counts(run)) == 12


@pytest.mark.parametrize("most", [1, 3, 32])
def test_no_more_sequences_are_live_than_are_allowed_and_none_less(llama, monkeypatch, most: int):
    monkeypatch.setattr(continuous, "MAX_SEQUENCES", most)
    run = generator(llama, eos=())
    for i in range(2 * most):
        run.add(random_request(5, 3, salt=i))
    counts = running_counts(run)
    assert max(counts) == most
    assert len(counts) == 2 * 3


def test_by_default_32_sequences_are_live(llama):
    run = generator(llama, eos=())
    for i in range(40):
        run.add(random_request(5, 3, salt=i))
    assert max(running_counts(run)) == 32


def test_a_sequence_that_is_added_soon_goes_before_all_that_wait(llama, monkeypatch):
    monkeypatch.setattr(continuous, "MAX_SEQUENCES", 1)
    run = generator(llama)
    for length in (5, 6, 7):
        run.add(random_request(length, 2))
    run.add(random_request(8, 2), front=True)
    assert [len(sequence.request.prompt) for sequence in finish(run)] == [8, 5, 6, 7]


def test_sequences_are_added_while_others_are_answered(llama):
    run = generator(llama)
    requests = [random_request(9 + i, 12) for i in range(5)]
    sequences = []
    for one in requests:
        sequences.append(run.add(one))
        run.step()
        run.step()
    finish(run)
    assert [sequence.generated.token_ids for sequence in sequences] == [alone(llama, one) for one in requests]


# Slots grow


@pytest.fixture
def lengths(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The length of the slots after each time that they change."""
    resize, found = KVCache.resize, []

    def noted(kv_cache: KVCache, *arguments) -> None:
        resize(kv_cache, *arguments)
        found.append(kv_cache.capacity)

    monkeypatch.setattr(KVCache, "resize", noted)
    return found


def test_slots_grow_to_twice_the_length_since_each_growth_copies_what_is_cached(llama, lengths):
    run, history = generator(llama, eos=()), prompt(60)
    lengths.clear()  # The model was tried, in slots of its own.
    for turn in range(30):
        sequence = run.add(request(history, 2))
        finish(run)
        history = [*sequence.tokens, *prompt(58, salt=1 + turn)]
    assert lengths[-1] > 30 * 60
    assert all(later >= 2 * earlier for earlier, later in pairwise(lengths))


def test_slots_grow_no_longer_than_needed_where_that_would_cost_other_sequences_theirs(
    llama, monkeypatch, lengths
):
    room = continuous.MAX_SEQUENCES * 256 * kv_token_bytes(llama)
    monkeypatch.setattr(continuous, "usable_memory", lambda device: room)
    run = generator(llama, eos=())
    lengths.clear()
    for length in (170, 200, 250):
        run.add(random_request(length, 4))
        finish(run)
    assert lengths == [192, 256]


def test_slots_are_as_long_after_a_failed_step_since_as_many_sequences_will_run_again(
    llama, monkeypatch, lengths, caplog
):
    monkeypatch.setattr(continuous, "MAX_SEQUENCES", 8)
    monkeypatch.setattr(continuous, "usable_memory", lambda device: 8 * 256 * kv_token_bytes(llama))
    run, forward, left = generator(llama, eos=()), continuous.packed.logits, [RuntimeError("once")]

    def failing(*inputs):
        if left:
            raise left.pop()
        return forward(*inputs)

    monkeypatch.setattr(continuous.packed, "logits", failing)
    lengths.clear()
    for salt in range(8):
        run.add(random_request(170, 4, salt=salt))
    next(steps(run))
    caplog.clear()  # This one was to fail.
    finish(run)
    assert set(lengths) == {192}


# A long prompt


def test_a_long_prompt_is_prefilled_in_chunks_while_the_others_go_on(llama, monkeypatch):
    monkeypatch.setattr(continuous, "PREFILL_BUDGET", 16)
    run = generator(llama, eos=())
    short = run.add(random_request(5, 30))
    run.step()
    long = run.add(random_request(100, 2))
    while not long.generated.token_ids:
        before = len(short.generated.token_ids)
        run.step()
        assert len(short.generated.token_ids) == before + 1
    assert len(short.generated.token_ids) == 1 + -(-100 // 16)
    assert tokens(llama, [long.request], eos=())[0][0] == long.generated.token_ids[0]


def test_a_step_prefills_no_more_than_its_budget(llama, monkeypatch):
    monkeypatch.setattr(continuous, "PREFILL_BUDGET", 16)
    run = generator(llama, eos=())
    for length in (100, 50, 7, 33, 17):
        run.add(random_request(length, 4))
    with seen(llama) as passes:
        finish(run)
    assert max(ids.numel() for ids in passes) <= 16 + 5


@pytest.mark.parametrize("budget", [2, 3, 16])
@pytest.mark.parametrize("architecture", ["gpt2", "mistral", "qwen3_moe"])
def test_the_chunks_of_a_prefill_do_not_change_its_answer(monkeypatch, architecture, budget):
    model, requests = (
        tiny.random_model(architecture),
        [
            random_request(1, 6),
            random_request(41, 6),
            random_request(16, 6),
            random_request(17, 6),
            random_request(3, 6),
        ],
    )
    monkeypatch.setattr(continuous, "PREFILL_BUDGET", budget)
    assert tokens(model, requests) == [alone(model, request) for request in requests]


# Nothing is computed twice


def test_every_token_is_computed_once(llama):
    requests = [random_request(40, 5), random_request(30, 7), random_request(9, 1)]
    assert tokens_seen(llama, requests) == sum(len(one.prompt) + one.max_new_tokens - 1 for one in requests)


def test_a_shared_prefix_is_computed_once(llama):
    shared = prompt(100)
    requests = [request([*shared, *prompt(6, salt=1 + i)], 4) for i in range(20)]
    assert tokens_seen(llama, requests) == 100 + 20 * (6 + 4 - 1)
    assert tokens(llama, requests) == [alone(llama, one) for one in requests]


def test_a_shared_prefix_is_computed_once_though_others_came_between(llama, monkeypatch):
    monkeypatch.setattr(continuous, "MAX_SEQUENCES", 3)
    shared = prompt(100)
    system = [request([*shared, *prompt(6, salt=1 + i)], 4) for i in range(6)]
    requests = [
        one
        for pair in zip(system, [random_request(20 + i, 4) for i in range(6)], strict=True)
        for one in pair
    ]
    others = sum(20 + i + 4 - 1 for i in range(6))
    assert tokens_seen(llama, requests) == 100 + 6 * (6 + 4 - 1) + others


def test_equal_prompts_are_read_once_and_drawn_apart(llama):
    requests = [random_request(80, 5, temperature=2.0, seed=seed) for seed in range(8)]
    # Each sequence computes its prompt's last token itself, for its logits.
    assert tokens_seen(llama, requests) == 80 + 7 + 8 * (5 - 1)
    assert len({tuple(ids) for ids in tokens(llama, requests)}) == 8


def test_the_next_turn_reads_only_what_is_new(llama):
    run = generator(llama, eos=())
    first = run.add(random_request(60, 6))
    for i in range(4):
        run.add(random_request(20 + i, 30))
    while first.running:
        run.step()
    follow = request([*first.tokens, *prompt(9, salt=7)], 5)
    second = run.add(follow, front=True)
    with seen(llama) as passes:
        while second.running:
            run.step()
    others = 4 * len(passes)
    # The last token of the first answer is not cached.
    assert sum(ids.numel() for ids in passes) - others == 1 + 9 + 5 - 1
    assert [second.generated.token_ids] == tokens(llama, [follow], eos=())


def test_what_an_ended_sequence_cached_serves_a_later_one(llama):
    run = generator(llama, eos=())
    run.add(random_request(90, 3, salt=5))
    finish(run)
    run.add(random_request(200, 3, salt=5))
    with seen(llama) as passes:
        finish(run)
    assert sum(ids.numel() for ids in passes) == 110 + 3 - 1


def test_a_sequence_is_not_deferred_for_a_short_prefix(llama):
    requests = [request([*prompt(8), *prompt(20, salt=1 + i)], 3) for i in range(4)]
    run = generator(llama, eos=())
    for one in requests:
        run.add(one)
    run.step()
    assert run.num_running == 4


@pytest.mark.parametrize(
    ("one", "other", "length"),
    [
        ([], [], 0),
        ([1], [], 0),
        ([1, 2], [1, 2], 2),
        ([1, 2, 3], [1, 2], 2),
        ([1, 2, 3], [1, 4, 3], 1),
        ([1], [2], 0),
    ],
)
def test_the_common_prefix_of_two_sequences(one: list[int], other: list[int], length: int):
    assert common_prefix(one, other) == common_prefix(other, one) == length


# Memory


@pytest.mark.parametrize("cached_tokens", [130, 1000])
def test_where_memory_is_short_fewer_sequences_are_live(llama, monkeypatch, cached_tokens: int):
    _memory_for(monkeypatch, cached_tokens)
    requests = [random_request(30 + i, 12) for i in range(8)]
    run = generator(llama, eos=())
    sequences = [run.add(one) for one in requests]
    counts = running_counts(run)
    assert max(counts) == min(8, cached_tokens // 64)
    assert [one.generated.token_ids for one in sequences] == [
        alone(llama, one, eos_token_id=None) for one in requests
    ]


def test_a_long_sequence_after_short_ones_has_the_memory_that_they_had(llama, monkeypatch):
    _memory_for(monkeypatch, 4 * 64)
    # The long one shares the prefix of the last short one, whose slot there is no room for any more.
    requests = [
        random_request(20, 12),
        random_request(21, 3),
        random_request(22, 3),
        random_request(23, 3, salt=1),
        random_request(150, 6, salt=1),
        random_request(8, 3),
    ]
    run = generator(llama, eos=())
    sequences = [run.add(one) for one in requests]
    finish(run)
    assert [one.generated.error for one in sequences] == [None] * len(requests)
    assert [one.generated.token_ids for one in sequences] == [
        alone(llama, one, eos_token_id=None) for one in requests
    ]


def test_slots_are_counted_as_long_as_they_are_made(llama, monkeypatch):
    """Slots grow by blocks of 64 tokens: two sequences of 46 tokens need 128."""
    requests = [random_request(40, 6), random_request(41, 5)]
    for room, together in ((100, 1), (128, 2)):
        _memory_for(monkeypatch, room)
        run = generator(llama)
        for one in requests:
            run.add(one)
        assert max(run.num_running for _ in steps(run)) == together


def test_a_sequence_that_the_budget_has_no_room_for_is_tried_alone(llama, monkeypatch):
    _memory_for(monkeypatch, 10)
    requests = [random_request(40, 6), random_request(50, 6)]
    assert tokens(llama, requests) == [alone(llama, one) for one in requests]


def _memory_for(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    """Leaves memory for a KV cache of `tokens` tokens of the tiny Llama."""
    size = kv_token_bytes(tiny.random_model("llama"))
    monkeypatch.setattr(continuous, "usable_memory", lambda device: tokens * size)
