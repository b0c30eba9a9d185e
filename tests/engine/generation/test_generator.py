"""Generation: requests of any kind run together, and each gets what `model.generate` gives it alone."""

import pytest
import torch

from engine.errors import Unsupported
from engine.generation.support import check_continuous_batching
from tests import tiny
from tests.helpers.sequences import (
    BYTES,
    WAYS,
    alone,
    answer,
    breaking,
    finish,
    generator,
    own_logprobs,
    random_request,
    seen,
    tokens,
)

pytestmark = pytest.mark.numeric

LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 1.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "original_max_position_embeddings": 64,
}
both_ways = pytest.mark.parametrize(("architecture", "continuous_batching"), WAYS)
continuous_or_static = pytest.mark.parametrize(
    "continuous_batching", [True, False], ids=["in flight", "batched"]
)


def passes(model, requests, continuous_batching: bool = True) -> set[int]:
    """How many sequences the model was handed at once, as requests of a tensor."""
    run = generator(model, continuous_batching)
    for one in requests:
        run.add(one)
    with seen(model) as forwards:
        finish(run)
    return {len(ids) for ids in forwards}


# Rows together


@both_ways
def test_sequences_of_any_length_are_answered_as_alone(architecture: str, continuous_batching: bool):
    model = tiny.random_model(architecture)
    requests = [
        random_request(1, 20),
        random_request(90, 3),
        random_request(7, 12),
        random_request(40, 1),
        random_request(7, 9, salt=1),
        random_request(60, 20),
    ]
    assert tokens(model, requests, continuous_batching) == [alone(model, request) for request in requests]


@both_ways
def test_log_probabilities_are_those_of_a_teacher_forced_forward(
    architecture: str, continuous_batching: bool
):
    model, requests = (
        tiny.random_model(architecture),
        [random_request(9, 10), random_request(40, 6, repetition_penalty=3.0)],
    )
    for one, generated in zip(requests, answer(model, requests, continuous_batching), strict=True):
        expected = own_logprobs(model, one.prompt, generated.token_ids)
        assert generated.logprobs == pytest.approx(expected, abs=1e-4)


@continuous_or_static
def test_learned_positions_are_not_run_past(continuous_batching: bool, caplog: pytest.LogCaptureFixture):
    model = tiny.random_model("gpt2", n_positions=64)
    requests = [
        random_request(62, 2),
        random_request(4, 60),
        random_request(30, 34),
        random_request(1, 63),
        random_request(63, 1),
        random_request(20, 5),
    ]
    assert tokens(model, requests, continuous_batching) == [alone(model, request) for request in requests]
    assert "failed" not in caplog.text


@continuous_or_static
def test_positions_that_depend_on_the_longest_sequence_depend_on_the_sequence_alone(
    continuous_batching: bool,
):
    model = tiny.random_model("phi3", original_max_position_embeddings=64, rope_parameters=LONGROPE)
    requests = [
        random_request(10, 20),
        random_request(90, 5),
        random_request(30, 12),
        random_request(60, 20),
        random_request(62, 2),
        random_request(100, 20),
    ]
    assert tokens(model, requests, continuous_batching) == [alone(model, request) for request in requests]


@continuous_or_static
def test_nothing_is_busy_where_no_sequence_was_added(continuous_batching: bool):
    run = generator(tiny.random_model("llama"), continuous_batching)
    assert (run.busy, run.num_running, run.num_waiting) == (False, 0, 0)


@continuous_or_static
def test_sequences_wait_until_a_step_and_none_is_left_in_the_end(continuous_batching: bool):
    run = generator(tiny.random_model("llama"), continuous_batching)
    sequences = [run.add(random_request(9, 3, salt=salt)) for salt in range(3)]
    assert (run.busy, run.num_running, run.num_waiting) == (True, 0, 3)
    assert set(finish(run)) == set(sequences)
    assert (run.busy, run.num_running, run.num_waiting) == (False, 0, 0)


@continuous_or_static
def test_the_programs_own_random_numbers_are_left_alone(continuous_batching: bool):
    model, requests = (
        tiny.random_model("llama"),
        [random_request(9, temperature=1.0, seed=3), random_request(9, temperature=1.0)],
    )
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    answer(model, requests, continuous_batching)
    assert torch.equal(torch.rand(3), expected)


@continuous_or_static
def test_half_precision_is_measured_in_float32(continuous_batching: bool):
    model, one = tiny.random_model("llama").bfloat16(), random_request(9, 1)
    (generated,) = answer(model, [one], continuous_batching)
    with torch.no_grad():
        logits = model(torch.tensor([one.prompt])).logits[0, -1]
    exact = logits.float().log_softmax(-1)[generated.token_ids].tolist()
    rounded = logits.log_softmax(-1)[generated.token_ids].tolist()
    assert generated.logprobs == pytest.approx(exact, abs=1e-5) != pytest.approx(rounded, abs=1e-5)


# How a request ends


@continuous_or_static
def test_a_sequence_ends_with_the_first_of_several_end_tokens(continuous_batching: bool):
    model = tiny.random_model("llama")
    (free,) = answer(model, [random_request(9, 12)], continuous_batching, eos=())
    assert (len(free.token_ids), free.stopped) == (12, False)
    fourth = free.token_ids[3]
    (ended,) = answer(model, [random_request(9, 12)], continuous_batching, eos=(fourth, tiny.EOS))
    assert ended.token_ids == free.token_ids[: free.token_ids.index(fourth) + 1]
    assert ended.stopped


@continuous_or_static
def test_a_sequence_ends_where_its_own_rule_says_and_its_neighbours_go_on(continuous_batching: bool):
    model = tiny.random_model("llama")
    free = tokens(model, [random_request(9, 12), random_request(20, 12)], continuous_batching, eos=())
    rule = lambda: lambda token: token == free[0][4]  # noqa: E731
    ruled = answer(
        model, [random_request(9, 12, stopping=rule), random_request(20, 12)], continuous_batching, eos=()
    )
    first = free[0].index(free[0][4])
    assert [generated.token_ids for generated in ruled] == [free[0][: first + 1], free[1]]
    assert [generated.stopped for generated in ruled] == [True, False]


@continuous_or_static
def test_a_rule_is_told_each_generated_token_once(continuous_batching: bool):
    told: list[int] = []
    (generated,) = answer(
        tiny.random_model("llama"),
        [random_request(9, 4, stopping=lambda: told.append)],
        continuous_batching,
        eos=(),
    )
    assert told == generated.token_ids


@continuous_or_static
def test_each_sequence_has_its_own_length(continuous_batching: bool):
    lengths = [1, 2, 30, 7]
    requests = [random_request(9, n, salt=n) for n in lengths]
    generated = answer(tiny.random_model("qwen3"), requests, continuous_batching, eos=())
    assert [len(one.token_ids) for one in generated] == lengths
    assert [len(one.logprobs) for one in generated] == lengths


# Which way is taken


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_sequences_are_in_flight_where_the_architecture_allows_it(architecture: str):
    model, requests = (
        tiny.random_model(architecture),
        [random_request(9, 4), random_request(40, 4), random_request(20, 4)],
    )
    together = {1} if architecture in tiny.IN_FLIGHT else {3}
    assert passes(model, requests) == together


@pytest.mark.parametrize("architecture", tiny.IN_FLIGHT)
def test_the_memory_of_a_token_is_measured(architecture: str):
    model = tiny.random_model(architecture)
    config = model.config
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    assert (
        check_continuous_batching(model, frozenset([tiny.EOS]))
        == 2 * config.num_hidden_layers * heads * size * model.dtype.itemsize
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"no_repeat_ngram_size": 1},
        {"suppress_tokens": list(range(BYTES + 1, tiny.VOCABULARY, 2))},
        {"bad_words_ids": [[token] for token in range(BYTES + 1, tiny.VOCABULARY, 2)]},
        {"min_new_tokens": 8},
        {"sequence_bias": [[[BYTES + 1], 50.0]]},
    ],
    ids=lambda settings: next(iter(settings)),
)
@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_what_the_checkpoint_forbids_is_forbidden_and_log_probabilities_stay_the_models_own(
    architecture: str, settings: dict
):
    model, requests = (
        tiny.random_model(architecture),
        [random_request(9, 10), random_request(40, 10), random_request(70, 10)],
    )
    free = tokens(model, requests)
    model.generation_config.update(**settings)
    answers = answer(model, requests)
    assert [generated.token_ids for generated in answers] == [alone(model, request) for request in requests]
    assert [generated.token_ids for generated in answers] != free
    for one, generated in zip(requests, answers, strict=True):
        expected = own_logprobs(model, one.prompt, generated.token_ids)
        assert generated.logprobs == pytest.approx(expected, abs=1e-4)


def test_a_checkpoints_rules_are_the_reason_that_is_given():
    model = tiny.random_model("llama")
    model.generation_config.min_new_tokens = 8
    with pytest.raises(Unsupported, match="forces or forbids tokens"):
        check_continuous_batching(model, frozenset([tiny.EOS]))


@pytest.mark.parametrize("architecture", tiny.BATCHED)
def test_an_attention_of_another_kind_is_the_reason_that_is_given(architecture: str):
    with pytest.raises(Unsupported, match="attention"):
        check_continuous_batching(tiny.random_model(architecture), frozenset())


def test_a_model_spread_over_devices_is_not_in_flight():
    model = tiny.random_model("llama")
    model.hf_device_map = {"model.layers.0": 0, "model.layers.1": "cpu"}
    with pytest.raises(Unsupported, match="several devices"):
        check_continuous_batching(model, frozenset([tiny.EOS]))


def test_a_model_that_gives_other_logits_in_flight_is_not():
    model = tiny.random_model("llama")

    def look_around(_layer, args):
        """Each token takes the mean of all, as code may that knows of one sequence only."""
        return (args[0] + args[0].mean(1, keepdim=True),)

    model.model.layers[1].mlp.register_forward_pre_hook(look_around)
    with pytest.raises(Unsupported, match="other logits"):
        check_continuous_batching(model, frozenset([tiny.EOS]))


def test_a_model_that_breaks_in_flight_is_not():
    model = tiny.random_model("llama")
    with (
        breaking(model, lambda inputs: "attention_metadata" in inputs, KeyError("cache")),
        pytest.raises(Unsupported, match="failed on a trial: KeyError: 'cache'"),
    ):
        check_continuous_batching(model, frozenset([tiny.EOS]))


@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": True, "temperature": 3.0, "top_k": 4, "top_p": 0.5},
        {"num_beams": 3, "num_return_sequences": 2},
        {"max_length": 11},
        {"forced_eos_token_id": tiny.EOS},
        {"stop_strings": ["e"]},
    ],
    ids=lambda settings: next(iter(settings)),
)
@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_how_the_checkpoint_would_search_draw_and_end_is_left_to_the_options(
    architecture: str, settings: dict
):
    model = tiny.random_model(architecture)
    requests = [random_request(9, 10), random_request(40, 5), random_request(11, 10, temperature=1, seed=2)]
    expected, way = answer(model, requests), passes(model, requests)
    model.generation_config.update(**settings)
    given = model.generation_config.to_dict()
    assert answer(model, requests) == expected
    assert passes(model, requests) == way
    assert model.generation_config.to_dict() == given
