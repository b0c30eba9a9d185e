"""Rules on single tokens give what transformers' logits processors give."""

import pytest
import torch
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from engine.generation.token_rules import TokenRules
from engine.options import GenerationOptions
from tests import tiny
from tests.helpers.sequences import alone, prompt, random_request, tokens

VOCABULARY = 12


def scores(step: int) -> torch.Tensor:
    return torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(step)) * 3


def theirs(processor, ids: list[int], given: torch.Tensor) -> torch.Tensor:
    return processor(torch.tensor([ids]), given[None].clone())[0]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_n_grams_are_not_repeated(size: int):
    rules = TokenRules(GenerationOptions(no_repeat_ngram_size=size))
    read = [token % VOCABULARY for token in prompt(9)]
    rules.restart(read)
    ids = list(read)
    for step in range(20):
        given = scores(step)
        assert torch.equal(rules.masked(given), theirs(NoRepeatNGramLogitsProcessor(size), ids, given))
        token = (step * 7) % 4
        rules.add(token)
        ids.append(token)


def test_a_bias_is_added():
    bias = {3: -100.0, 5: 2.5}
    rules, given = TokenRules(GenerationOptions(logit_bias=bias)), scores(0)
    expected = theirs(
        SequenceBiasLogitsProcessor({(token,): value for token, value in bias.items()}), [0], given
    )
    assert torch.equal(rules.biased(given), expected)
    assert torch.equal(given, scores(0)), "what is handed in stays as it is"


def test_no_end_token_comes_before_the_minimum_length():
    rules = TokenRules(GenerationOptions(min_new_tokens=3), {2, 7})
    processor = MinNewTokensLengthLogitsProcessor(4, 3, [2, 7])
    ids = [1, 1, 1, 1]
    rules.restart(ids)
    for step in range(5):
        given = scores(step)
        assert torch.equal(rules.masked(given), theirs(processor, ids, given))
        rules.add(9)
        ids.append(9)


def test_without_a_rule_scores_are_what_they_are():
    rules, given = TokenRules(GenerationOptions(), {2}), scores(0)
    rules.restart(prompt(9))
    rules.add(3)
    assert not rules
    assert rules.masked(rules.biased(given)) is given


def test_an_answer_that_starts_again_has_no_tokens():
    rules = TokenRules(GenerationOptions(no_repeat_ngram_size=1, min_new_tokens=1), {2})
    rules.restart([3])
    first = rules.masked(scores(0))
    rules.add(5)
    assert not torch.equal(rules.masked(scores(0)), first)
    rules.restart([3])
    assert torch.equal(rules.masked(scores(0)), first)


@pytest.mark.parametrize(
    ("architecture", "continuous_batching"), [("llama", True), ("gpt2", False), ("t5", False)]
)
@pytest.mark.parametrize(
    "options",
    [
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 12},
        {"no_repeat_ngram_size": 3, "min_new_tokens": 9, "repetition_penalty": 1.3},
    ],
    ids=str,
)
def test_answers_are_those_of_generate(architecture: str, continuous_batching: bool, options: dict):
    model = tiny.random_model(architecture)
    requests = [random_request(length, 16, **options) for length in (9, 50)]
    expected = [alone(model, request, **options) for request in requests]
    assert tokens(model, requests, continuous_batching) == expected


def test_a_bias_forbids_a_token_and_leaves_the_log_probabilities_the_models_own():
    model = tiny.random_model("llama")
    [free] = tokens(model, [random_request(9, 8)], eos=())
    [without] = tokens(model, [random_request(9, 8, logit_bias={free[0]: -100})], eos=())
    assert free[0] not in without
