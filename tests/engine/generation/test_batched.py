"""In batches, for models whose rows cannot come and go: who runs with whom, and what a failure costs."""

import errno
import logging

import pytest
import torch

from engine.errors import GenerationError
from engine.generation.batched import MAX_ROWS, Batched, has_rules, switch
from tests import tiny
from tests.engine.generation.test_generator import LONGROPE
from tests.helpers.rows import (
    BYTES,
    alone,
    answer,
    asks,
    breaking,
    finish,
    poisoned,
    prompt,
    row,
    rows_of,
    seen,
    steps,
    tokens,
)

pytestmark = pytest.mark.numeric

DECODERS = ["gpt2", "phi3", "bloom"]


def batches(model, rows) -> list[int]:
    """How many rows each batch has, in the order in which they run."""
    run = rows_of(model, in_flight=False)
    for one in rows:
        run.add(one)
    return [len(batch) for batch in steps(run)]


# Who runs with whom


@pytest.mark.parametrize("architecture", DECODERS)
def test_padding_with_an_end_token_changes_nothing(architecture: str):
    model, rows = tiny.random_model(architecture), [row(3), row(50)]
    padded = answer(model, rows, in_flight=False, pad=tiny.ENDS[0])
    assert [generated.token_ids for generated in padded] == [alone(model, row) for row in rows]


def test_longest_prompts_run_first_so_many_to_a_batch():
    run = rows_of(tiny.random_model("bloom"))
    lengths = [1 + 7 * i % 40 for i in range(MAX_ROWS + 9)]
    for length in lengths:
        run.add(row(length, 2))
    first, last = run.step(), run.step()
    assert (len(first), len(last), run.busy) == (MAX_ROWS, 9, False)
    assert [len(one.row.prompt) for one in first + last] == sorted(lengths, reverse=True)


def test_a_batch_is_live_while_it_runs():
    model, counts = tiny.random_model("bloom"), []
    run = rows_of(model)
    for length in (3, 9, 20):
        run.add(row(length, 2))
    with model.register_forward_pre_hook(lambda *_: counts.append(run.live)):
        finish(run)
    assert counts == [3, 3]
    assert run.live == 0


def test_a_batch_reads_its_prompts_once_and_then_a_token_of_each_row():
    model = tiny.random_model("bloom")
    run = rows_of(model, eos=())
    for length in (20, 7):
        run.add(row(length, 5))
    with seen(model) as passes:
        finish(run)
    assert [tuple(ids.shape) for ids in passes] == [(2, 20), (2, 1), (2, 1), (2, 1), (2, 1)]


def test_rows_that_would_run_each_other_past_the_window_run_apart():
    model = tiny.random_model("gpt2", n_positions=64)
    assert batches(model, [row(60, 4), row(4, 60), row(20, 4), row(1, 60)]) == [2, 2]


def test_an_encoder_and_its_decoder_have_a_window_each():
    model = tiny.random_model("bart", max_position_embeddings=64)
    rows = [row(64, 64), row(5, 40), row(64, 3)]
    assert batches(model, rows) == [3]
    assert tokens(model, rows) == [alone(model, row) for row in rows]


def test_longrope_rows_on_either_side_of_its_first_window_run_apart():
    model = tiny.random_model("phi3", original_max_position_embeddings=64, rope_parameters=LONGROPE)
    assert switch(model) == 64
    assert batches(model, [row(90, 5), row(30, 12), row(20, 20), row(60, 20)]) == [1, 1, 2]


def test_so_they_do_where_layers_of_one_kind_alone_are_turned_so():
    plain = {"rope_type": "default", "rope_theta": 10000.0}
    of_layers = {"full_attention": LONGROPE, "sliding_attention": plain}
    model = tiny.random_model("gemma3", rope_parameters=of_layers)
    assert switch(model) == 64
    rows = [row(90, 5), row(30, 12), row(9, 5)]
    assert tokens(model, rows) == [alone(model, row) for row in rows]


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_other_positions_are_turned_alike_at_every_length(architecture: str):
    assert switch(tiny.random_model(architecture)) is None


def test_rows_added_after_a_batch_have_one_of_their_own():
    model = tiny.random_model("t5")
    run = rows_of(model)
    first = [run.add(row(length, 4)) for length in (9, 30)]
    assert set(run.step()) == set(first)
    later = run.add(row(12, 4), soon=True)
    assert run.step() == [later]
    assert later.generated.token_ids == alone(model, later.row)


# What the checkpoint forces or forbids


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_a_checkpoint_that_forbids_nothing_has_no_rules(architecture: str):
    assert not has_rules(tiny.random_model(architecture), frozenset([tiny.EOS]))


@pytest.mark.parametrize(
    "settings",
    [
        {"min_new_tokens": 8},
        {"min_length": 8},
        {"bad_words_ids": [[7]]},
        {"suppress_tokens": [7]},
        {"begin_suppress_tokens": [7]},
        {"forced_bos_token_id": 7},
        {"no_repeat_ngram_size": 2},
        {"exponential_decay_length_penalty": (3, 1.2)},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_a_checkpoint_that_forces_or_forbids_tokens_has_rules(settings: dict):
    model = tiny.random_model("llama")
    model.generation_config.update(**settings)
    assert has_rules(model, frozenset([tiny.EOS]))


def test_how_a_checkpoint_draws_and_penalises_is_no_rule():
    model = tiny.random_model("llama")
    model.generation_config.update(
        do_sample=True, temperature=2.0, top_k=3, top_p=0.4, repetition_penalty=3.0
    )
    assert not has_rules(model, frozenset([tiny.EOS]))


# Failures


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("broken"),
        torch.OutOfMemoryError("no memory"),
        IndexError("far"),
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("architecture", ["gpt2", "t5"])
def test_a_batch_too_large_is_halved_until_it_runs(
    architecture: str, error: Exception, caplog: pytest.LogCaptureFixture
):
    model, rows = tiny.random_model(architecture), [row(n, 5) for n in (9, 30, 12, 60, 2, 33, 8)]
    too_large = lambda inputs: len(inputs.get("input_ids", inputs.get("decoder_input_ids"))) > 2  # noqa: E731
    with breaking(model, too_large, error), caplog.at_level(logging.WARNING):
        halved = tokens(model, rows, in_flight=False)
    assert halved == [alone(model, row) for row in rows]
    assert "a batch of 7 rows failed" in caplog.text


def test_only_the_row_that_fails_alone_is_lost():
    model, poison = tiny.random_model("bloom"), BYTES + 200
    rows = [
        asks([BYTES if token == poison else token for token in prompt(n, n)], 5) for n in (9, 30, 12, 60, 2)
    ]
    rows[3] = asks([*rows[3].prompt[:-1], poison], 5)
    expected = [alone(model, one) for one in rows]
    with breaking(model, lambda inputs: bool((inputs["input_ids"] == poison).any()), RuntimeError("broken")):
        results = answer(model, rows)
    lost = results.pop(3)
    del expected[3]
    assert isinstance(lost.error, GenerationError)
    assert "RuntimeError: broken" in str(lost.error)
    assert [one.token_ids for one in results] == expected


def test_a_batch_that_fails_late_is_answered_from_its_beginning():
    model, rows = tiny.random_model("bloom"), [row(n, 8, temperature=1.0, seed=n) for n in (9, 30, 12)]
    expected = tokens(model, rows, eos=())
    passes = []

    def fails(inputs: dict) -> bool:
        passes.append(inputs)
        return len(passes) == 5

    with breaking(model, fails, RuntimeError("broken")):
        assert tokens(model, rows, eos=()) == expected


def test_a_row_whose_logits_are_no_numbers_costs_no_other():
    poison = BYTES + 200
    model = poisoned(tiny.random_model("phi3"), poison)
    sick = [asks([BYTES, poison], 6), asks([BYTES, poison], 6, temperature=1.0)]
    well = [asks(range(BYTES + 1, BYTES + 1 + n), 6) for n in (3, 30)]
    first, second, third, fourth = answer(model, [sick[0], well[0], sick[1], well[1]], in_flight=False)
    assert [second.token_ids, fourth.token_ids] == [alone(model, one) for one in well]
    assert "no numbers" in str(first.error)
    assert "no numbers" in str(third.error)


def test_the_settings_of_the_model_are_left_as_they_were():
    model = tiny.random_model("t5")
    given, forward = model.generation_config.to_dict(), model.forward
    run = Batched(model, frozenset(tiny.ENDS), tiny.PAD, None)
    run.add(row(9, 3))
    run.step()
    assert model.generation_config.to_dict() == given
    assert model.forward == forward
