"""In flight: rows come and go at every step, none waits for another, nothing is computed twice."""

import pytest

from engine.generation import continuous
from engine.generation.continuous import common
from tests import tiny
from tests.helpers.rows import alone, asks, finish, live_rows, measured, prompt, row, rows_of, seen, tokens

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def llama():
    return tiny.random_model("llama")


@pytest.fixture(autouse=True)
def no_step_fails(caplog: pytest.LogCaptureFixture):
    """An error in a step is made good for by fewer rows: it would not be seen in the answers."""
    yield
    assert "failed" not in caplog.text


def tokens_seen(model, rows) -> int:
    """How many tokens the model computes to answer some rows together."""
    run = rows_of(model, eos=())
    for one in rows:
        run.add(one)
    with seen(model) as passes:
        finish(run)
    return sum(ids.numel() for ids in passes)


# Rows come and go


def test_a_row_that_ends_leaves_at_once_and_the_next_takes_its_place(llama, monkeypatch):
    monkeypatch.setattr(continuous, "MAX_ROWS", 2)
    run = rows_of(llama, eos=())
    for length, answer_length in ((9, 20), (10, 3), (11, 3), (12, 3), (13, 3)):
        run.add(row(length, answer_length))
    ended = finish(run)
    assert [len(decoding.row.prompt) for decoding in ended] == [10, 11, 12, 13, 9]


def test_a_run_of_unequal_rows_takes_as_many_steps_as_they_fill(llama, monkeypatch):
    monkeypatch.setattr(continuous, "MAX_ROWS", 2)
    run = rows_of(llama, eos=())
    for length, answer_length in ((9, 12), (10, 3), (11, 3), (12, 3), (13, 3)):
        run.add(row(length, answer_length))
    # The first token of a row comes with its prompt: 12 steps of one row beside 4 times 3 of the others.
    assert len(live_rows(run)) == 12


@pytest.mark.parametrize("most", [1, 3, 32])
def test_no_more_rows_are_live_than_are_allowed_and_none_less(llama, monkeypatch, most: int):
    monkeypatch.setattr(continuous, "MAX_ROWS", most)
    run = rows_of(llama, eos=())
    for i in range(2 * most):
        run.add(row(5, 3, salt=i))
    counts = live_rows(run)
    assert max(counts) == most
    assert len(counts) == 2 * 3


def test_by_default_32_rows_are_live(llama):
    run = rows_of(llama, eos=())
    for i in range(40):
        run.add(row(5, 3, salt=i))
    assert max(live_rows(run)) == 32


def test_a_row_that_is_added_soon_goes_before_all_that_wait(llama, monkeypatch):
    monkeypatch.setattr(continuous, "MAX_ROWS", 1)
    run = rows_of(llama)
    for length in (5, 6, 7):
        run.add(row(length, 2))
    run.add(row(8, 2), soon=True)
    assert [len(decoding.row.prompt) for decoding in finish(run)] == [8, 5, 6, 7]


def test_rows_are_added_while_others_are_answered(llama):
    run = rows_of(llama)
    rows = [row(9 + i, 12) for i in range(5)]
    decodings = []
    for one in rows:
        decodings.append(run.add(one))
        run.step()
        run.step()
    finish(run)
    assert [decoding.generated.token_ids for decoding in decodings] == [alone(llama, one) for one in rows]


# A long prompt


def test_a_long_prompt_is_read_in_parts_while_the_others_go_on(llama, monkeypatch):
    monkeypatch.setattr(continuous, "PREFILL_TOKENS", 16)
    run = rows_of(llama, eos=())
    short = run.add(row(5, 30))
    run.step()
    long = run.add(row(100, 2))
    while not long.generated.token_ids:
        before = len(short.generated.token_ids)
        run.step()
        assert len(short.generated.token_ids) == before + 1
    assert len(short.generated.token_ids) == 1 + -(-100 // 16)
    assert tokens(llama, [long.row], eos=())[0][0] == long.generated.token_ids[0]


def test_a_step_reads_no_more_of_prompts_than_its_budget(llama, monkeypatch):
    monkeypatch.setattr(continuous, "PREFILL_TOKENS", 16)
    run = rows_of(llama, eos=())
    for length in (100, 50, 7, 33, 17):
        run.add(row(length, 4))
    with seen(llama) as passes:
        finish(run)
    assert max(ids.numel() for ids in passes) <= 16 + 5


@pytest.mark.parametrize("budget", [2, 3, 16])
@pytest.mark.parametrize("architecture", ["gpt2", "mistral", "qwen3_moe"])
def test_the_parts_that_a_prompt_is_read_in_do_not_change_its_answer(monkeypatch, architecture, budget):
    model, rows = tiny.random_model(architecture), [row(1, 6), row(41, 6), row(16, 6), row(17, 6), row(3, 6)]
    monkeypatch.setattr(continuous, "PREFILL_TOKENS", budget)
    assert tokens(model, rows) == [alone(model, row) for row in rows]


# Nothing is computed twice


def test_every_token_is_computed_once(llama):
    rows = [row(40, 5), row(30, 7), row(9, 1)]
    assert tokens_seen(llama, rows) == sum(len(one.prompt) + one.max_new_tokens - 1 for one in rows)


def test_what_many_prompts_begin_with_is_computed_once(llama):
    shared = prompt(100)
    rows = [asks([*shared, *prompt(6, salt=1 + i)], 4) for i in range(20)]
    assert tokens_seen(llama, rows) == 100 + 20 * (6 + 4 - 1)
    assert tokens(llama, rows) == [alone(llama, one) for one in rows]


def test_what_prompts_share_is_computed_once_though_others_came_between(llama, monkeypatch):
    monkeypatch.setattr(continuous, "MAX_ROWS", 3)
    shared = prompt(100)
    system = [asks([*shared, *prompt(6, salt=1 + i)], 4) for i in range(6)]
    rows = [one for pair in zip(system, [row(20 + i, 4) for i in range(6)], strict=True) for one in pair]
    others = sum(20 + i + 4 - 1 for i in range(6))
    assert tokens_seen(llama, rows) == 100 + 6 * (6 + 4 - 1) + others


def test_equal_prompts_are_read_once_and_drawn_apart(llama):
    rows = [row(80, 5, temperature=2.0, seed=seed) for seed in range(8)]
    # Each row reads its prompt's last token itself, for its logits.
    assert tokens_seen(llama, rows) == 80 + 7 + 8 * (5 - 1)
    assert len({tuple(ids) for ids in tokens(llama, rows)}) == 8


def test_the_next_turn_reads_only_what_is_new(llama):
    run = rows_of(llama, eos=())
    first = run.add(row(60, 6))
    for i in range(4):
        run.add(row(20 + i, 30))
    while first.live:
        run.step()
    follow = asks([*first.tokens, *prompt(9, salt=7)], 5)
    second = run.add(follow, soon=True)
    with seen(llama) as passes:
        while second.live:
            run.step()
    others = 4 * len(passes)
    # The last token of the first answer was never read.
    assert sum(ids.numel() for ids in passes) - others == 1 + 9 + 5 - 1
    assert [second.generated.token_ids] == tokens(llama, [follow], eos=())


def test_what_an_ended_row_held_serves_a_later_one(llama):
    run = rows_of(llama, eos=())
    run.add(row(90, 3, salt=5))
    finish(run)
    run.add(row(200, 3, salt=5))
    with seen(llama) as passes:
        finish(run)
    assert sum(ids.numel() for ids in passes) == 110 + 3 - 1


def test_a_beginning_of_a_few_tokens_is_not_waited_for(llama):
    rows = [asks([*prompt(8), *prompt(20, salt=1 + i)], 3) for i in range(4)]
    run = rows_of(llama, eos=())
    for one in rows:
        run.add(one)
    run.step()
    assert run.live == 4


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
def test_common_is_how_far_two_sequences_are_alike(one: list[int], other: list[int], length: int):
    assert common(one, other) == common(other, one) == length


# Memory


@pytest.mark.parametrize("tokens_held", [130, 1000])
def test_where_memory_is_short_fewer_rows_are_live(llama, monkeypatch, tokens_held: int):
    _memory_for(monkeypatch, tokens_held)
    rows = [row(30 + i, 12) for i in range(8)]
    run = rows_of(llama, eos=())
    decodings = [run.add(one) for one in rows]
    counts = live_rows(run)
    assert max(counts) == min(8, tokens_held // 64)
    assert [one.generated.token_ids for one in decodings] == [
        alone(llama, one, eos_token_id=None) for one in rows
    ]


def test_a_long_row_after_short_ones_has_the_memory_that_they_had(llama, monkeypatch):
    _memory_for(monkeypatch, 4 * 64)
    # The long one begins as the last of the short ones did, whose slot there is no room for any more.
    rows = [row(20, 12), row(21, 3), row(22, 3), row(23, 3, salt=1), row(150, 6, salt=1), row(8, 3)]
    run = rows_of(llama, eos=())
    decodings = [run.add(one) for one in rows]
    finish(run)
    assert [one.generated.error for one in decodings] == [None] * len(rows)
    assert [one.generated.token_ids for one in decodings] == [
        alone(llama, one, eos_token_id=None) for one in rows
    ]


def test_a_row_that_the_budget_has_no_room_for_is_tried_alone(llama, monkeypatch):
    _memory_for(monkeypatch, 10)
    rows = [row(40, 6), row(50, 6)]
    assert tokens(llama, rows) == [alone(llama, one) for one in rows]


def _memory_for(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    """Leaves memory for the keys and values of so many tokens of the tiny Llama."""
    size = measured(tiny.random_model("llama"))
    monkeypatch.setattr(
        continuous, "free_memory", lambda device: 1 + int(tokens * size / continuous.MEMORY_SHARE)
    )
