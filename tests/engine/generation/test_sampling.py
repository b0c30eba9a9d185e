"""Sampling: which token is chosen by a request's options, and its log-probability by the model itself."""

import math
from collections import Counter

import pytest
import torch

from engine.generation.sequence import SequenceState, extend
from tests import tiny
from tests.helpers.sequences import (
    alone,
    answer,
    own_logits,
    own_logprobs,
    prompt,
    random_request,
    request,
    tokens,
)

pytestmark = pytest.mark.numeric

continuous_or_static = pytest.mark.parametrize(
    "continuous_batching", [True, False], ids=["continuous", "static"]
)
# Probabilities of the first six tokens.
SHARES = torch.tensor([0.3, 0.25, 0.2, 0.12, 0.08, 0.05])


@pytest.fixture(scope="module")
def llama():
    return tiny.random_model("llama")


def draws(llama, scores: torch.Tensor, count: int, **options) -> Counter[int]:
    """How often each token is drawn from the same scores, in one sequence."""
    sequence = SequenceState(request([0], count, seed=0, **options), llama, frozenset())
    for _ in range(count):
        extend([sequence], scores[None])
    return Counter(sequence.generated.token_ids)


# Greedy


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0},
        {"top_k": 1},
        {"top_k": 1, "temperature": 3, "seed": 8},
        {"do_sample": False, "top_p": 0.5},
    ],
    ids=str,
)
@continuous_or_static
def test_greedy_is_the_likeliest_token_each_time(llama, continuous_batching: bool, options: dict):
    one = random_request(9, 20, **options)
    assert tokens(llama, [one], continuous_batching) == [alone(llama, one)]


@pytest.mark.parametrize(
    ("architecture", "continuous_batching"),
    [("llama", True), ("gpt2", False), ("bloom", False), ("t5", False)],
)
def test_a_penalty_on_repetition_is_generates(architecture: str, continuous_batching: bool):
    model = tiny.random_model(architecture)
    penalties = {9: 3.0, 50: 1.3, 70: 1.0}
    requests = [
        random_request(length, 16, repetition_penalty=penalty) for length, penalty in penalties.items()
    ]
    plain = [alone(model, request, eos_token_id=tiny.EOS) for request in requests]
    expected = [
        alone(model, request, eos_token_id=tiny.EOS, repetition_penalty=request.options.repetition_penalty)
        for request in requests
    ]
    assert expected[:2] != plain[:2]
    # Padding is no repetition, even by a token that the answer has.
    assert tokens(model, requests, continuous_batching, eos=(tiny.EOS,), pad=expected[0][0]) == expected


def test_an_option_wins_over_the_checkpoints_penalty():
    model = tiny.random_model("llama")
    free = tokens(model, [random_request(50, 16)])
    model.generation_config.repetition_penalty = 5.0
    assert tokens(model, [random_request(50, 16, repetition_penalty=1.0)]) == free
    assert tokens(model, [random_request(50, 16)]) == [alone(model, random_request(50, 16))] != free


# Sampled


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"temperature": 1.0}, 6),
        ({"top_k": 3}, 3),
        ({"top_k": 50}, 6),
        ({"top_p": 0.54}, 2),
        ({"top_p": 0.56}, 3),
        ({"top_p": 0.01}, 1),
        ({"min_p": 0.5}, 3),
        ({"min_p": 0.3}, 4),
        ({"min_p": 1.0}, 1),
        ({"top_k": 4, "top_p": 0.7, "min_p": 0.05}, 3),
        ({"temperature": 5.0, "top_p": 0.6}, 4),
    ],
    ids=str,
)
def test_no_token_but_those_the_filters_leave_is_drawn_and_each_of_them_is(llama, options: dict, kept: int):
    scores = torch.full((40,), -50.0)
    scores[:6] = SHARES.log()
    assert set(draws(llama, scores, 150, **options)) == set(range(kept))


def assert_drawn(counts: Counter[int], shares: torch.Tensor) -> None:
    """As often as they are likely, within 4.5 standard deviations."""
    total = counts.total()
    for token, share in enumerate(shares.tolist()):
        spread = math.sqrt(share * (1 - share) / total)
        assert counts[token] / total == pytest.approx(share, abs=4.5 * spread)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_as_often_as_they_are_likely(llama, temperature: float):
    counts = draws(llama, SHARES.log(), 600, temperature=temperature)
    assert_drawn(counts, (SHARES.log() / temperature).softmax(-1))


def test_sequences_of_many_seeds_draw_their_first_tokens_as_often_as_they_are_likely(llama):
    sequences = [
        SequenceState(request([0], 1, temperature=1.0, seed=seed), llama, frozenset()) for seed in range(600)
    ]
    extend(sequences, SHARES.log().expand(len(sequences), -1))
    assert_drawn(Counter(sequence.generated.token_ids[0] for sequence in sequences), SHARES)


def test_a_token_without_probability_is_never_drawn(llama):
    scores = torch.full((8,), -torch.inf)
    scores[3] = scores[6] = 0.0
    assert set(draws(llama, scores, 50, temperature=1.0)) == {3, 6}


def test_a_penalty_counts_before_the_draw(llama):
    scores = torch.tensor([2.0, 2.0, 2.0])
    one = request([0, 1], 1, temperature=0.1, repetition_penalty=3.0, seed=0)
    sequence = SequenceState(one, llama, frozenset())
    extend([sequence], scores[None])
    assert sequence.generated.token_ids == [2]


@continuous_or_static
def test_a_seed_gives_one_answer_whatever_else_runs_in_whatever_order(llama, continuous_batching: bool):
    seeded = random_request(9, temperature=1.0, seed=3)
    others = [random_request(30, salt=i, temperature=1.5) for i in range(5)]
    first, *_ = tokens(llama, [seeded, *others], continuous_batching)
    *_, last = tokens(llama, [*others[:3], random_request(80), seeded], continuous_batching)
    assert first == last == tokens(llama, [seeded], continuous_batching)[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.7},
        {"temperature": 5.0, "top_k": 5},
        {"temperature": 2.0, "top_k": 50, "top_p": 0.9, "min_p": 0.05},
        {"temperature": 1.5, "repetition_penalty": 1.7},
    ],
    ids=str,
)
@pytest.mark.parametrize("architecture", ["gpt2", "phi3"])
def test_a_seed_gives_the_same_answer_in_continuous_and_in_static_batching(architecture: str, settings: dict):
    model = tiny.random_model(architecture)
    requests = [
        random_request(9, 10, seed=5, **settings),
        random_request(40, 12),
        random_request(60, 3, temperature=2, seed=1),
    ]
    assert tokens(model, requests) == tokens(model, requests, continuous_batching=False)


@continuous_or_static
def test_another_seed_gives_another_answer_and_so_does_none(llama, continuous_batching: bool):
    requests = [random_request(9, 30, temperature=2.0, seed=seed) for seed in (1, 2, None, None)]
    generated = tokens(llama, requests, continuous_batching, eos=())
    assert len(set(map(tuple, generated))) == 4


@continuous_or_static
def test_greedy_and_sampled_sequences_share_a_run(llama, continuous_batching: bool):
    requests = [
        random_request(9, 20),
        random_request(30, 9, temperature=1.0, seed=4),
        random_request(50, 20, repetition_penalty=2.0),
        random_request(5, 15, top_p=0.5, seed=9),
    ]
    together = tokens(llama, requests, continuous_batching)
    assert together == [tokens(llama, [one], continuous_batching)[0] for one in requests]
    assert together[0] == alone(llama, requests[0])
    assert together[2] == alone(llama, requests[2], repetition_penalty=2.0)


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
@continuous_or_static
def test_log_probabilities_are_the_models_own_before_temperature_and_filters(
    llama, continuous_batching, options: dict
):
    requests = [random_request(9, 16, **options), random_request(50, 16, salt=1, **options)]
    for one, generated in zip(requests, answer(llama, requests, continuous_batching), strict=True):
        expected = own_logprobs(llama, one.prompt, generated.token_ids)
        assert generated.logprobs == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("count", [1, 5, 20])
@pytest.mark.parametrize(
    ("architecture", "continuous_batching"), [("llama", True), ("gpt2", False), ("t5", False)]
)
def test_the_likeliest_tokens_at_each_place_are_noted_where_they_are_asked_for(
    architecture: str, continuous_batching: bool, count: int
):
    model, one = (
        tiny.random_model(architecture),
        random_request(9, 6, top_logprobs=count, temperature=1.0, seed=0),
    )
    generated, without = answer(model, [one, random_request(40, 6)], continuous_batching)
    expected = own_logits(model, one.prompt, generated.token_ids).log_softmax(-1).topk(count)
    assert len(generated.top_logprobs) == len(generated.token_ids)
    for place, top in enumerate(generated.top_logprobs):
        assert [token for token, _ in top] == expected.indices[place].tolist()
        assert [value for _, value in top] == pytest.approx(expected.values[place].tolist(), abs=1e-4)
    assert without.top_logprobs == []


def test_sequences_may_ask_for_different_counts(llama):
    requests = [random_request(9, 4, top_logprobs=count) for count in (2, 0, 20, 7)]
    generated = answer(llama, requests, eos=())
    assert [[len(top) for top in one.top_logprobs] for one in generated] == [[2] * 4, [], [20] * 4, [7] * 4]


def test_no_more_tokens_are_noted_than_the_vocabulary_has(llama):
    sequence = SequenceState(request([0], 2, top_logprobs=20), llama, frozenset())
    extend([sequence], SHARES.log()[None])
    (top,) = sequence.generated.top_logprobs
    assert [token for token, _ in top] == list(range(6))
    assert sum(math.exp(value) for _, value in top) == pytest.approx(1)


def test_the_likeliest_first_tokens_are_noted_where_the_confidence_asks_for_them(llama):
    one = random_request(9, 6, confidence="top_k_mass")
    generated, without = answer(llama, [one, random_request(40, 6)])
    with torch.no_grad():
        first = llama(torch.tensor([one.prompt])).logits[0, -1].log_softmax(-1)
    assert generated.likeliest[0] == pytest.approx(first.topk(5).values.tolist(), abs=1e-4)
    assert generated.top_logprobs == []
    assert without.likeliest == []


def test_a_token_is_chosen_by_scores_and_measured_by_logits(llama):
    sequence = SequenceState(request([0], 1), llama, frozenset())
    scores = torch.full((6,), -torch.inf)
    scores[4] = 0.0
    extend([sequence], SHARES.log()[None], scores[None])
    assert sequence.generated.token_ids == [4]
    assert sequence.generated.logprobs == pytest.approx([math.log(0.08)], abs=1e-6)


def test_a_sequence_that_has_ended_is_left_as_it_is(llama):
    ended, live = (SequenceState(request([0], 3), llama, frozenset([end])) for end in (0, 9))
    for _ in range(3):
        extend([ended, live], SHARES.log().expand(2, -1))
    assert (ended.generated.token_ids, ended.generated.stopped) == ([0], True)
    assert (live.generated.token_ids, live.generated.stopped) == ([0, 0, 0], False)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}], ids=str)
def test_logits_that_are_no_numbers_fail_their_sequence_alone(llama, options: dict, value: float):
    logits = SHARES.log().repeat(2, 1)
    logits[0, 2] = value
    sick, well = (SequenceState(request([0], 1, **options), llama, frozenset()) for _ in range(2))
    extend([sick, well], logits)
    assert "not numbers" in str(sick.generated.error)
    assert not sick.running
    assert well.generated.error is None
    assert well.generated.logprobs == pytest.approx([SHARES[well.generated.token_ids[0]].log().item()])


def test_a_sequence_that_starts_again_draws_the_same(llama):
    sequence = SequenceState(request(prompt(4), 5, temperature=1.0, seed=6), llama, frozenset())
    drawn = []
    for _ in range(2):
        for _ in range(5):
            extend([sequence], SHARES.log()[None])
        drawn.append(sequence.generated.token_ids)
        sequence.restart()
    assert drawn[0] == drawn[1]
    assert sequence.tokens == prompt(4)


# OpenAI's penalties


@continuous_or_static
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # The likeliest token leads the second by 1, and the third by 2.
        ({"frequency_penalty": 0.6}, [0, 0, 1, 0, 1, 0]),
        ({"presence_penalty": 1.5}, [0, 1, 0, 0, 0, 0]),
        ({"presence_penalty": -1.5}, [0, 0, 0, 0, 0, 0]),
        ({"presence_penalty": 1.5, "frequency_penalty": 0.6}, [0, 1, 2, 0, 0, 1]),
    ],
    ids=str,
)
def test_penalties_are_taken_from_the_logits_of_what_the_answer_has(
    continuous_batching: bool, options, expected
):
    scores = torch.full((16, 16), -20.0)
    scores[:, 3:6] = torch.tensor([2.0, 1.0, 0.0])
    model = tiny.scripted_model(scores)
    [chosen] = tokens(model, [request([7], 6, **options)], continuous_batching)
    assert [token - 3 for token in chosen] == expected


def test_a_penalty_does_not_count_the_prompt():
    scores = torch.full((16, 16), -20.0)
    scores[:, 3] = 2.0
    [chosen] = tokens(
        tiny.scripted_model(scores), [request([3] * 9, 1, frequency_penalty=2, presence_penalty=2)]
    )
    assert chosen == [3]


# Growth


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 1.0, "top_p": 0.9, "top_k": 5, "min_p": 0.01},
        {"repetition_penalty": 1.3},
        {"frequency_penalty": 0.5, "presence_penalty": 0.5},
    ],
    ids=str,
)
def test_no_token_looks_at_those_before_it_again(llama, options: dict):
    sequence = SequenceState(request(prompt(300), 300, seed=0, **options), llama, frozenset())
    for _ in range(2):
        extend([sequence], SHARES.repeat(50).log()[None])
    sequence.tokens = Unread(sequence.tokens)
    sequence.generated.token_ids = Unread(sequence.generated.token_ids)
    for _ in range(20):
        extend([sequence], SHARES.repeat(50).log()[None])
    assert len(sequence.generated.token_ids) == 22


class Unread(list):
    """Tokens that may be counted and added to."""

    def __iter__(self):
        raise AssertionError("it is gone through")

    def __getitem__(self, place):
        raise AssertionError("it is looked up")


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 1.0, "seed": 1}, {"repetition_penalty": 1.5}, {"presence_penalty": 1.0}],
    ids=str,
)
@pytest.mark.parametrize("architecture", ["bart", "t5"])
def test_a_decoder_without_a_start_of_its_own_starts_with_bos(architecture: str, options: dict):
    model, named = (tiny.random_model(architecture) for _ in range(2))
    for config in (model.config, model.generation_config):
        config.decoder_start_token_id = None
    for config in (named.config, named.generation_config):
        config.decoder_start_token_id = tiny.BOS
    one = random_request(9, 6, **options)
    assert tokens(model, [one], continuous_batching=False) == tokens(named, [one], continuous_batching=False)
