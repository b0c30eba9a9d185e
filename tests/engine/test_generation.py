"""Generation: rows of any kind share a batch, and each gets what `model.generate` gives it alone."""

import logging
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from engine.errors import GenerationError
from engine.generation import MAX_ROWS, Generated, Row, generate
from engine.options import GenerationOptions
from tests import tiny

DECODERS = ["gpt2", "llama", "qwen3", "phi3"]
SEQ2SEQ = ["t5", "bart"]
BYTES = len(tiny.SPECIALS)


def row(length: int, max_new_tokens: int = 12, salt: int = 0, ended=None, **options) -> Row:
    """A prompt of so many tokens; another salt makes another prompt."""
    letters = torch.Generator().manual_seed(1000 * salt + length)
    prompt = torch.randint(BYTES, tiny.VOCABULARY, (length,), generator=letters).tolist()
    return Row(prompt, max_new_tokens, GenerationOptions(**options), ended)


def answer(
    model, rows: list[Row], eos=tuple(tiny.ENDS), pad: int = tiny.PAD
) -> list[Generated | GenerationError]:
    window = getattr(model.config, "max_position_embeddings", None)
    return generate(model, rows, eos=frozenset(eos), pad=pad, window=window)


def tokens(model, rows: list[Row]) -> list[list[int]]:
    return [generated.token_ids for generated in answer(model, rows)]


def alone(model, row: Row, **settings) -> list[int]:
    """What `model.generate` makes of a row by itself: greedy, unless the settings say otherwise."""
    settings = {
        "do_sample": False,
        "max_new_tokens": row.max_new_tokens,
        "eos_token_id": tiny.ENDS,
    } | settings
    start = 1 if model.config.is_encoder_decoder else len(row.prompt)
    return model.generate(torch.tensor([row.prompt]), **settings)[0, start:].tolist()


def drawn(model, row: Row, seed: int, **settings) -> list[int]:
    """What `model.generate` draws for a row by itself, from the numbers that follow a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return alone(model, row, **{"do_sample": True, "top_k": 0} | settings)


@torch.no_grad()
def own_logprobs(model, row: Row, generated: Generated) -> list[float]:
    """The model's own log-probabilities, from one forward pass over prompt and answer."""
    tokens = generated.token_ids
    if model.config.is_encoder_decoder:
        decoder_ids = torch.tensor([[model.config.decoder_start_token_id, *tokens[:-1]]])
        logits = model(input_ids=torch.tensor([row.prompt]), decoder_input_ids=decoder_ids).logits[0]
    else:
        logits = model(torch.tensor([[*row.prompt, *tokens]])).logits[0, len(row.prompt) - 1 : -1]
    return logits.log_softmax(-1)[range(len(tokens)), tokens].tolist()


@contextmanager
def breaking(model, fails, error: Exception):
    """The model raises where `fails(input_ids)` is true of what it reads."""

    def check(_model, _args, inputs) -> None:
        if fails(inputs["input_ids"]):
            raise error

    with model.register_forward_pre_hook(check, with_kwargs=True):
        yield


# Batches


@pytest.mark.parametrize("architecture", DECODERS + SEQ2SEQ)
def test_rows_of_any_length_are_answered_as_alone(architecture: str):
    model = tiny.random_model(architecture)
    rows = [row(1, 20), row(90, 3), row(7, 12), row(40, 1), row(7, 9, salt=1), row(60, 20)]
    assert tokens(model, rows) == [alone(model, row) for row in rows]


@pytest.mark.parametrize("architecture", DECODERS)
def test_padding_with_an_end_token_changes_nothing(architecture: str):
    model, rows = tiny.random_model(architecture), [row(3), row(50)]
    padded = answer(model, rows, pad=tiny.ENDS[0])
    assert [generated.token_ids for generated in padded] == [alone(model, row) for row in rows]


def test_learned_positions_are_not_run_past(caplog: pytest.LogCaptureFixture):
    model = tiny.random_model("gpt2", n_positions=64)
    rows = [row(62, 2), row(4, 60), row(30, 34), row(1, 63), row(63, 1), row(20, 5)]
    assert tokens(model, rows) == [alone(model, row) for row in rows]
    assert "failed" not in caplog.text


def test_positions_that_depend_on_the_longest_row_depend_on_the_row_alone():
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 1.0,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "original_max_position_embeddings": 64,
    }
    model = tiny.random_model("phi3", original_max_position_embeddings=64, rope_parameters=rope)
    rows = [row(10, 20), row(90, 5), row(30, 12), row(60, 20), row(62, 2), row(100, 20)]
    assert tokens(model, rows) == [alone(model, row) for row in rows]


def test_an_encoder_and_its_decoder_have_a_window_each():
    model = tiny.random_model("bart", max_position_embeddings=64)
    rows = [row(64, 64), row(5, 40), row(64, 3)]
    assert tokens(model, rows) == [alone(model, row) for row in rows]


def test_more_rows_than_one_batch_holds_come_back_in_their_order():
    model = tiny.random_model("llama")
    rows = [row(1 + 7 * i % 40, 3, salt=i) for i in range(MAX_ROWS + 9)]
    with breaking(model, lambda ids: len(ids) > MAX_ROWS, AssertionError("too many rows")):
        assert tokens(model, rows) == [alone(model, row) for row in rows]


def test_no_rows_make_no_answers():
    assert answer(tiny.random_model("llama"), []) == []


# How a row ends


def test_a_row_ends_with_the_first_of_several_end_tokens():
    model = tiny.random_model("llama")
    free = answer(model, [row(9, 12)], eos=())[0]
    assert (len(free.token_ids), free.stopped) == (12, False)
    fourth = free.token_ids[3]
    ended = answer(model, [row(9, 12)], eos=(fourth, tiny.EOS))[0]
    assert ended.token_ids == free.token_ids[: free.token_ids.index(fourth) + 1]
    assert ended.stopped


def test_a_row_ends_where_its_own_rule_says_and_its_neighbours_go_on():
    model = tiny.random_model("llama")
    free = answer(model, [row(9, 12), row(20, 12)], eos=())
    ruled = answer(model, [row(9, 12, ended=lambda tokens: len(tokens) == 5), row(20, 12)], eos=())
    assert [generated.token_ids for generated in ruled] == [free[0].token_ids[:5], free[1].token_ids]
    assert [generated.stopped for generated in ruled] == [True, False]


def test_a_rule_sees_the_generated_tokens_alone_one_more_each_time():
    seen = []
    generated = answer(tiny.random_model("llama"), [row(9, 4, ended=lambda t: seen.append(list(t)))], eos=())[
        0
    ]
    assert seen == [generated.token_ids[:i] for i in range(1, 5)]


def test_each_row_has_its_own_length():
    lengths = [1, 2, 30, 7]
    generated = answer(tiny.random_model("qwen3"), [row(9, n, salt=n) for n in lengths], eos=())
    assert [len(one.token_ids) for one in generated] == lengths
    assert [len(one.logprobs) for one in generated] == lengths


# How a token is chosen


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.7},
        {"temperature": 1.0},
        {"temperature": 5.0, "top_k": 5},
        {"top_p": 0.6},
        {"min_p": 0.4},
        {"temperature": 2.0, "top_k": 50, "top_p": 0.9, "min_p": 0.05},
        {"temperature": 1.5, "repetition_penalty": 1.7},
    ],
    ids=str,
)
@pytest.mark.parametrize("architecture", ["gpt2", "t5"])
def test_a_sampled_row_is_drawn_as_generate_draws_it_padded_or_not(architecture: str, settings: dict):
    model = tiny.random_model(architecture)
    sampled = row(9, 10, seed=5, **settings)
    expected = drawn(model, sampled, seed=5, **settings)
    assert tokens(model, [sampled]) == [expected]
    assert tokens(model, [row(40, 12), sampled, row(60, 3, temperature=2, seed=1)])[1] == expected


@pytest.mark.parametrize("architecture", DECODERS + SEQ2SEQ)
def test_a_penalty_on_repetition_is_generates_padded_or_not(architecture: str):
    model = tiny.random_model(architecture)
    penalties = {9: 3.0, 50: 1.3, 70: 1.0}
    rows = [row(length, 16, repetition_penalty=penalty) for length, penalty in penalties.items()]
    plain = [alone(model, row, eos_token_id=tiny.EOS) for row in rows]
    expected = [
        alone(model, row, eos_token_id=tiny.EOS, repetition_penalty=row.options.repetition_penalty)
        for row in rows
    ]
    assert expected[:2] != plain[:2]
    # Padding is no repetition, even by a token that the answer has.
    answers = answer(model, rows, eos=(tiny.EOS,), pad=expected[0][0])
    assert [generated.token_ids for generated in answers] == expected


def test_a_seed_gives_one_answer_whatever_else_is_in_the_batch():
    model = tiny.random_model("llama")
    seeded = row(9, temperature=1.0, seed=3)
    others = [row(30, salt=i, temperature=1.5) for i in range(5)]
    first, *_ = tokens(model, [seeded, *others])
    *_, last = tokens(model, [*others[:3], row(80), seeded])
    assert first == last == tokens(model, [seeded])[0]


def test_another_seed_gives_another_answer_and_so_does_none():
    model = tiny.random_model("llama")
    rows = [row(9, 30, temperature=2.0, seed=seed) for seed in (1, 2, None, None)]
    generated = answer(model, rows, eos=())
    assert len({tuple(one.token_ids) for one in generated}) == 4


def test_the_programs_own_random_numbers_are_left_alone():
    model = tiny.random_model("llama")
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    answer(model, [row(9, temperature=1.0, seed=3), row(9, temperature=1.0)])
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    "options", [{"temperature": 0}, {"top_k": 1}, {"top_k": 1, "temperature": 3, "seed": 8}]
)
def test_temperature_0_and_top_k_1_are_greedy(options: dict):
    model = tiny.random_model("llama")
    assert tokens(model, [row(9, 20, **options)]) == [alone(model, row(9, 20))]


def test_greedy_and_sampled_rows_share_a_batch():
    model = tiny.random_model("llama")
    rows = [
        row(9, 20),
        row(30, 9, temperature=1.0, seed=4),
        row(50, 20, repetition_penalty=2.0),
        row(5, 15, top_p=0.5, seed=9),
    ]
    assert tokens(model, rows) == [
        alone(model, rows[0]),
        drawn(model, rows[1], seed=4, temperature=1.0),
        alone(model, rows[2], repetition_penalty=2.0),
        drawn(model, rows[3], seed=9, top_p=0.5),
    ]


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 5.0},
        {"no_repeat_ngram_size": 1},
        {"suppress_tokens": list(range(BYTES + 1, tiny.VOCABULARY, 2))},
        {"bad_words_ids": [[token] for token in range(BYTES + 1, tiny.VOCABULARY, 2)]},
        {"min_new_tokens": 8},
    ],
    ids=lambda settings: next(iter(settings)),
)
@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_what_the_checkpoint_forbids_is_forbidden_and_log_probabilities_stay_the_models_own(
    architecture: str, settings: dict
):
    model, rows = tiny.random_model(architecture), [row(9, 10), row(40, 10), row(70, 10)]
    free = tokens(model, rows)
    model.generation_config.update(**settings)
    answers = answer(model, rows)
    assert [generated.token_ids for generated in answers] == [alone(model, row) for row in rows]
    assert [generated.token_ids for generated in answers] != free
    for one, generated in zip(rows, answers, strict=True):
        assert generated.logprobs == pytest.approx(own_logprobs(model, one, generated), abs=1e-4)


def test_an_option_wins_over_the_checkpoints_penalty():
    model = tiny.random_model("llama")
    free = tokens(model, [row(9, 10)])
    model.generation_config.repetition_penalty = 5.0
    assert tokens(model, [row(9, 10, repetition_penalty=1.0)]) == free != tokens(model, [row(9, 10)])


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
    rows = [row(9, 10), row(40, 5), row(11, 10, temperature=1, seed=2)]
    expected = answer(model, rows)
    model.generation_config.update(**settings)
    given = model.generation_config.to_dict()
    assert answer(model, rows) == expected
    assert model.generation_config.to_dict() == given


# Log-probabilities


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 4.0, "top_k": 20, "seed": 1},
        {"repetition_penalty": 2.5},
        {"top_p": 0.3, "seed": 1},
    ],
    ids=str,
)
def test_log_probabilities_are_the_models_own_before_temperature_and_filters(options: dict):
    model = tiny.random_model("llama")
    rows = [row(9, 16, **options), row(50, 16, salt=1, **options)]
    for one, generated in zip(rows, answer(model, rows), strict=True):
        assert generated.logprobs == pytest.approx(own_logprobs(model, one, generated), abs=1e-4)


def test_the_likeliest_first_tokens_are_noted_where_they_are_asked_for():
    model, one = tiny.random_model("llama"), row(9, 6, confidence="top_k_mass")
    generated, without = answer(model, [one, row(40, 6)])
    with torch.no_grad():
        first = model(torch.tensor([one.prompt])).logits[0, -1].log_softmax(-1)
    assert generated.first_top == pytest.approx(first.topk(5).values.tolist(), abs=1e-4)
    assert without.first_top == []


def test_half_precision_is_measured_in_float32():
    model, one = tiny.random_model("llama").bfloat16(), row(9, 1)
    (generated,) = answer(model, [one])
    with torch.no_grad():
        logits = model(torch.tensor([one.prompt])).logits[0, -1]
    assert logits.dtype == torch.bfloat16
    exact = logits.float().log_softmax(-1)[generated.token_ids].tolist()
    assert generated.logprobs == pytest.approx(exact, abs=1e-5)
    assert generated.logprobs != pytest.approx(logits.log_softmax(-1)[generated.token_ids].tolist(), abs=1e-5)


# Failures


@pytest.mark.parametrize(
    "error", [RuntimeError("broken"), torch.OutOfMemoryError("no memory"), IndexError("far")]
)
def test_a_batch_too_large_is_halved_until_it_runs(error: Exception, caplog: pytest.LogCaptureFixture):
    model, rows = tiny.random_model("llama"), [row(n, 5) for n in (9, 30, 12, 60, 2, 33, 8)]
    with breaking(model, lambda ids: len(ids) > 2, error), caplog.at_level(logging.WARNING):
        halved = tokens(model, rows)
    assert halved == [alone(model, row) for row in rows]
    assert "a batch of 7 rows failed" in caplog.text


def test_only_the_row_that_fails_alone_is_lost():
    model, poison = tiny.random_model("llama"), BYTES + 200
    rows = [row(n, 5) for n in (9, 30, 12, 60, 2, 33)]
    rows = [
        replace(one, prompt=[BYTES if token == poison else token for token in one.prompt]) for one in rows
    ]
    rows[3] = replace(rows[3], prompt=[*rows[3].prompt[:-1], poison])
    with breaking(model, lambda ids: bool((ids == poison).any()), RuntimeError("broken")):
        results = answer(model, rows)
        expected = [alone(model, one) for one in rows if one is not rows[3]]
    assert isinstance(results[3], GenerationError)
    assert "RuntimeError: broken" in str(results[3])
    assert [one.token_ids for one in results if isinstance(one, Generated)] == expected
