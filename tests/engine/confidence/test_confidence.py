"""Confidence: one number in [0, 1] from what generation recorded, or None; never NaN."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.confidence import METHODS, Evidence, measure

pytestmark = pytest.mark.numeric

LOGPROBS = st.floats(max_value=0)
EVIDENCE = st.builds(
    Evidence,
    st.lists(LOGPROBS | st.just(math.nan) | st.floats(0, 1e-6)),
    st.lists(LOGPROBS | st.floats(0, 1e-6), max_size=5),
)


@given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=50))
def test_mean_logprob_is_the_geometric_mean_of_the_tokens_probabilities(probabilities: list[float]):
    expected = math.prod(probability ** (1 / len(probabilities)) for probability in probabilities)
    assert measure("mean_logprob", Evidence(list(map(math.log, probabilities)))) == pytest.approx(expected)


def test_length_alone_changes_nothing():
    short, long = (Evidence([math.log(0.8)] * n) for n in (2, 200))
    assert measure("mean_logprob", short) == pytest.approx(measure("mean_logprob", long))


def test_top_k_mass_is_the_probability_of_the_likeliest_first_tokens_together():
    first_top = [math.log(p) for p in (0.4, 0.2, 0.1, 0.1, 0.05)]
    assert measure("top_k_mass", Evidence([-1.0], first_top)) == pytest.approx(0.85)


@given(st.sampled_from(sorted(METHODS)), EVIDENCE)
def test_it_is_a_number_from_0_to_1_or_none(method: str, evidence: Evidence):
    confidence = measure(method, evidence)
    assert confidence is None or 0 <= confidence <= 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("logprobs", [[], [math.nan], [-1.0, math.nan, -2.0]])
def test_what_is_not_known_is_none(method: str, logprobs: list[float]):
    assert measure(method, Evidence(logprobs, [-1.0])) is None


def test_rounding_above_1_is_1():
    assert measure("mean_logprob", Evidence([1e-7])) == 1
    assert measure("top_k_mass", Evidence([-1.0], [math.log(0.5) + 1e-7] * 2)) == 1


def test_an_impossible_token_is_0():
    assert measure("mean_logprob", Evidence([-0.1, -math.inf])) == 0
