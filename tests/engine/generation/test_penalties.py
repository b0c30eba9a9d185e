"""Penalties are transformers' and OpenAI's, and cost a long answer's token what they cost its first."""

from collections import Counter

import pytest
import torch
from transformers import RepetitionPenaltyLogitsProcessor

from engine.generation.penalties import Penalties
from tests.helpers.sequences import prompt

VOCABULARY = 259


def scores(step: int) -> torch.Tensor:
    return torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(step)) * 3


def defined(penalty: Penalties, read: list[int], answer: list[int], scores: torch.Tensor) -> torch.Tensor:
    """Scores less the penalties, by their definitions, from all tokens at once."""
    expected = scores.clone()
    for token, count in Counter(answer).items():
        expected[token] -= penalty._frequency * count + penalty._presence
    repetition = RepetitionPenaltyLogitsProcessor(penalty._repetition)
    return repetition(torch.tensor([read + answer]), expected[None])[0]


@pytest.mark.parametrize("repetition", [1.0, 1.3, 0.7])
@pytest.mark.parametrize("frequency", [0.0, 0.1, -2.0])
@pytest.mark.parametrize("presence", [0.0, 1.5])
def test_they_are_those_of_all_tokens_at_once(repetition: float, frequency: float, presence: float):
    penalties, read, answer = Penalties(repetition, frequency, presence), prompt(40), []
    penalties.restart(read)
    for step, token in enumerate(prompt(25, salt=1) * 2):
        expected = defined(penalties, read, answer, scores(step))
        torch.testing.assert_close(penalties(scores(step)), expected, rtol=1e-6, atol=1e-5)
        penalties.add(token)
        answer.append(token)


def test_what_has_probability_zero_keeps_it():
    penalties = Penalties(1.5, 0.5, 0.5)
    penalties.restart([3])
    penalties.add(4)
    assert penalties(torch.full((8,), -torch.inf)).tolist() == [-torch.inf] * 8


def test_scores_that_are_handed_in_stay_as_they_are():
    penalties, given = Penalties(1.5, 0.5, 0.5), scores(0)
    penalties.restart([3])
    penalties(given)
    assert torch.equal(given, scores(0))


def test_an_answer_that_starts_again_has_no_tokens():
    penalties = Penalties(1.5, 0.5, 0.5)
    penalties.restart([3])
    first = penalties(scores(0))
    for token in (3, 5, 5):
        penalties.add(token)
        assert not torch.equal(penalties(scores(0)), first)
    penalties.restart([3])
    assert torch.equal(penalties(scores(0)), first)


def test_without_any_scores_are_what_they_are():
    penalties = Penalties(1.0, 0.0, 0.0)
    penalties.restart(prompt(9))
    assert not penalties
    assert penalties(given := scores(0)) is given
