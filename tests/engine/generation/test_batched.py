"""Static batching: which sequences share a batch, and what a failure costs."""

import errno
import logging

import pytest
import torch

from engine.errors import GenerationError
from engine.generation.batched import MAX_SEQUENCES, StaticBatching
from engine.generation.hf_generate import has_token_rules
from engine.model_properties import longrope_threshold
from tests import tiny
from tests.engine.generation.test_generator import LONGROPE
from tests.helpers.sequences import (
    BYTES,
    alone,
    answer,
    breaking,
    finish,
    generator,
    poisoned,
    prompt,
    random_request,
    request,
    seen,
    steps,
    tokens,
)

pytestmark = pytest.mark.numeric

DECODERS = ["gpt2", "phi3", "bloom"]


def batches(model, requests) -> list[int]:
    """The size of each batch, in the order in which they run."""
    run = generator(model, continuous_batching=False)
    for one in requests:
        run.add(one)
    return [len(batch) for batch in steps(run)]


# Who runs with whom


@pytest.mark.parametrize("architecture", DECODERS)
def test_padding_with_an_end_token_changes_nothing(architecture: str):
    model, requests = tiny.random_model(architecture), [random_request(3), random_request(50)]
    padded = answer(model, requests, continuous_batching=False, pad=tiny.ENDS[0])
    assert [generated.token_ids for generated in padded] == [alone(model, request) for request in requests]


def test_longest_prompts_run_first_so_many_to_a_batch():
    run = generator(tiny.random_model("bloom"))
    lengths = [1 + 7 * i % 40 for i in range(MAX_SEQUENCES + 9)]
    for length in lengths:
        run.add(random_request(length, 2))
    first, last = run.step(), run.step()
    assert (len(first), len(last), run.busy) == (MAX_SEQUENCES, 9, False)
    assert [len(one.request.prompt) for one in first + last] == sorted(lengths, reverse=True)


def test_a_batch_is_live_while_it_runs():
    model, counts = tiny.random_model("bloom"), []
    run = generator(model)
    for length in (3, 9, 20):
        run.add(random_request(length, 2))
    with model.register_forward_pre_hook(lambda *_: counts.append(run.num_running)):
        finish(run)
    assert counts == [3, 3]
    assert run.num_running == 0


def test_a_batch_reads_its_prompts_once_and_then_a_token_of_each_sequence():
    model = tiny.random_model("bloom")
    run = generator(model, eos=())
    for length in (20, 7):
        run.add(random_request(length, 5))
    with seen(model) as passes:
        finish(run)
    assert [tuple(ids.shape) for ids in passes] == [(2, 20), (2, 1), (2, 1), (2, 1), (2, 1)]


def test_sequences_that_would_run_each_other_past_the_context_length_run_apart():
    model = tiny.random_model("gpt2", n_positions=64)
    assert batches(
        model, [random_request(60, 4), random_request(4, 60), random_request(20, 4), random_request(1, 60)]
    ) == [2, 2]


def test_an_encoder_and_its_decoder_have_a_context_length_each():
    model = tiny.random_model("bart", max_position_embeddings=64)
    requests = [random_request(64, 64), random_request(5, 40), random_request(64, 3)]
    assert batches(model, requests) == [3]
    assert tokens(model, requests) == [alone(model, request) for request in requests]


def test_longrope_sequences_on_either_side_of_its_threshold_run_apart():
    model = tiny.random_model("phi3", original_max_position_embeddings=64, rope_parameters=LONGROPE)
    assert longrope_threshold(model) == 64
    assert batches(
        model, [random_request(90, 5), random_request(30, 12), random_request(20, 20), random_request(60, 20)]
    ) == [1, 1, 2]


def test_so_they_do_where_layers_of_one_kind_alone_are_turned_so():
    plain = {"rope_type": "default", "rope_theta": 10000.0}
    of_layers = {"full_attention": LONGROPE, "sliding_attention": plain}
    model = tiny.random_model("gemma3", rope_parameters=of_layers)
    assert longrope_threshold(model) == 64
    requests = [random_request(90, 5), random_request(30, 12), random_request(9, 5)]
    assert tokens(model, requests) == [alone(model, request) for request in requests]


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_other_positions_are_turned_alike_at_every_length(architecture: str):
    assert longrope_threshold(tiny.random_model(architecture)) is None


def test_sequences_added_after_a_batch_have_one_of_their_own():
    model = tiny.random_model("t5")
    run = generator(model)
    first = [run.add(random_request(length, 4)) for length in (9, 30)]
    assert set(run.step()) == set(first)
    later = run.add(random_request(12, 4), front=True)
    assert run.step() == [later]
    assert later.generated.token_ids == alone(model, later.request)


# What the checkpoint forces or forbids


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_a_checkpoint_that_forbids_nothing_has_no_rules(architecture: str):
    assert not has_token_rules(tiny.random_model(architecture), frozenset([tiny.EOS]))


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
    assert has_token_rules(model, frozenset([tiny.EOS]))


def test_how_a_checkpoint_draws_and_penalises_is_no_rule():
    model = tiny.random_model("llama")
    model.generation_config.update(
        do_sample=True, temperature=2.0, top_k=3, top_p=0.4, repetition_penalty=3.0
    )
    assert not has_token_rules(model, frozenset([tiny.EOS]))


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
    model, requests = (
        tiny.random_model(architecture),
        [random_request(n, 5) for n in (9, 30, 12, 60, 2, 33, 8)],
    )
    too_large = lambda inputs: len(inputs.get("input_ids", inputs.get("decoder_input_ids"))) > 2  # noqa: E731
    with breaking(model, too_large, error), caplog.at_level(logging.WARNING):
        halved = tokens(model, requests, continuous_batching=False)
    assert halved == [alone(model, request) for request in requests]
    assert "a batch of 7 sequences failed" in caplog.text


def test_only_the_sequence_that_fails_alone_is_lost():
    model, poison = tiny.random_model("bloom"), BYTES + 200
    requests = [
        request([BYTES if token == poison else token for token in prompt(n, n)], 5)
        for n in (9, 30, 12, 60, 2)
    ]
    requests[3] = request([*requests[3].prompt[:-1], poison], 5)
    expected = [alone(model, one) for one in requests]
    with breaking(model, lambda inputs: bool((inputs["input_ids"] == poison).any()), RuntimeError("broken")):
        results = answer(model, requests)
    lost = results.pop(3)
    del expected[3]
    assert isinstance(lost.error, GenerationError)
    assert "RuntimeError: broken" in str(lost.error)
    assert [one.token_ids for one in results] == expected


def test_a_batch_that_fails_late_is_answered_from_its_beginning():
    model, requests = (
        tiny.random_model("bloom"),
        [random_request(n, 8, temperature=1.0, seed=n) for n in (9, 30, 12)],
    )
    expected = tokens(model, requests, eos=())
    passes = []

    def fails(inputs: dict) -> bool:
        passes.append(inputs)
        return len(passes) == 5

    with breaking(model, fails, RuntimeError("broken")):
        assert tokens(model, requests, eos=()) == expected


def test_a_sequence_whose_logits_are_no_numbers_costs_no_other():
    poison = BYTES + 200
    model = poisoned(tiny.random_model("phi3"), poison)
    sick = [request([BYTES, poison], 6), request([BYTES, poison], 6, temperature=1.0)]
    well = [request(range(BYTES + 1, BYTES + 1 + n), 6) for n in (3, 30)]
    first, second, third, fourth = answer(
        model, [sick[0], well[0], sick[1], well[1]], continuous_batching=False
    )
    assert [second.token_ids, fourth.token_ids] == [alone(model, one) for one in well]
    assert "not numbers" in str(first.error)
    assert "not numbers" in str(third.error)


def test_the_settings_of_the_model_are_left_as_they_were():
    model = tiny.random_model("t5")
    given, forward = model.generation_config.to_dict(), model.forward
    run = StaticBatching(model, frozenset(tiny.ENDS), tiny.PAD, None)
    run.add(random_request(9, 3))
    run.step()
    assert model.generation_config.to_dict() == given
    assert model.forward == forward
