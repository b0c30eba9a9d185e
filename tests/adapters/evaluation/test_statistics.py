"""Discrimination, calibration error, fits and thresholds: by definition, scikit-learn and simulation."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from adapters.evaluation import fitting, guarantee
from adapters.evaluation.discrimination import aurc, auroc, estimates, prr
from adapters.evaluation.reliability import bins, brier, ece
from engine.confidence.calibration import Calibration


def drawn(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Confidences that are too high, and which answers are right."""
    rng = np.random.default_rng(seed)
    chance = rng.beta(4, 1, n)
    return chance**0.25, rng.random(n) < chance


def test_auroc_is_scikit_learns_with_ties_too():
    confidence, right = drawn(500)
    for values in (confidence, confidence.round(2)):
        assert auroc(values, right) == pytest.approx(roc_auc_score(right, values))


def test_aurc_is_the_mean_error_rate_of_all_coverages():
    confidence, right = np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False])
    assert aurc(confidence, right) == pytest.approx((0 + 1 / 2 + 1 / 3 + 2 / 4) / 4)
    assert aurc(np.ones(4), right) == pytest.approx(0.5), "answers of one confidence are accepted together"


def test_prr_is_1_for_a_perfect_order_and_0_for_none():
    right = np.array([True, True, False, True, False])
    assert prr(right.astype(float), right) <= 1
    assert prr(np.array([0.9, 0.8, 0.2, 0.7, 0.1]), right) == pytest.approx(1)
    assert prr(np.ones(5), right) == pytest.approx(0)
    assert prr(np.array([0.1, 0.2, 0.9, 0.3, 0.8]), right) < 0


def test_the_intervals_hold_the_truth_as_often_as_they_say():
    confidence, right = drawn(20_000, seed=1)
    whole = auroc(confidence, right)
    held = 0
    for seed in range(20):
        found = estimates(*drawn(300, seed=100 + seed))["auroc"]
        held += found.low <= whole <= found.high
    assert held >= 16


@pytest.mark.parametrize("right", [np.ones(20, bool), np.zeros(20, bool)])
def test_one_class_only_has_no_auroc(right):
    found = estimates(np.linspace(0, 1, 20), right)
    assert found["auroc"].value is None
    assert found["prr"].low is None


def test_calibration_errors_are_those_of_the_definition():
    confidence = np.array([0.1, 0.2, 0.8, 0.9])
    right = np.array([False, True, True, True])
    assert [(one.n, one.confidence) for one in bins(confidence, right, 2)] == [
        (2, pytest.approx(0.15)),
        (2, pytest.approx(0.85)),
    ]
    assert ece(confidence, right, 2) == pytest.approx((0.35 + 0.15) / 2)
    assert brier(confidence, right) == pytest.approx(brier_score_loss(right, confidence))


@pytest.mark.parametrize("method", fitting.FITTERS)
def test_a_fit_means_what_it_says_on_other_answers_and_is_applied_without_numpy(method: str):
    points = fitting.FITTERS[method](*drawn(4000))
    confidence, right = drawn(4000, seed=1)
    calibrated = fitting.interpolated(points, confidence)
    assert ece(calibrated, right) < 0.04 < ece(confidence, right)
    applied = Calibration(method, points, 4000, "sequence", "exact_match", (), "m", {})
    some = [0.0, *confidence[:100].tolist(), *(raw for raw, _ in points), 1.0]
    assert [applied.apply(raw) for raw in some] == pytest.approx(fitting.interpolated(points, np.array(some)))


def test_the_fit_with_the_least_held_out_brier_score_is_taken():
    found = fitting.fit(*drawn(1000))
    assert found.method == min(found.brier, key=found.brier.get)
    assert found.held_out.shape == (1000,)


def test_equal_confidences_can_be_fitted():
    right = np.arange(40) % 4 > 0
    for fitter in fitting.FITTERS.values():
        points = fitter(np.full(40, 0.9), right)
        assert fitting.interpolated(points, np.array([0.9, 0.1])) == pytest.approx(0.75, abs=0.01)


@pytest.mark.parametrize(
    ("right", "reason"),
    [
        (np.arange(10) % 2 > 0, "10 answers are too few for a calibration: label at least 20 more"),
        (np.ones(40, bool), "all 40 answers are right: add items that the model gets wrong"),
        (np.zeros(40, bool), "all 40 answers are wrong: add items that the model gets right"),
        (np.arange(40) > 1, "only 2 of 40 answers are wrong, 5 are needed"),
    ],
)
def test_too_few_answers_are_not_fitted(right, reason: str):
    assert reason in fitting.too_few(right)


@pytest.mark.parametrize("max_error", [0.05, 0.1])
def test_a_threshold_holds_its_promise_on_new_answers(max_error: float):
    confidence, right = drawn(50_000, seed=1)
    broken = found = 0
    for seed in range(200):
        threshold = guarantee.threshold(*drawn(500, seed=100 + seed), max_error).threshold
        if threshold is not None:
            found += 1
            broken += (~right[confidence >= threshold]).mean() > max_error
    assert found >= 50
    assert broken <= 0.05 * 200


def test_no_confidence_that_says_nothing_gets_a_threshold():
    rng = np.random.default_rng(0)
    found = [guarantee.threshold(rng.random(400), rng.random(400) < 0.9, 0.05).threshold for _ in range(100)]
    assert sum(threshold is not None for threshold in found) <= 5


@pytest.mark.parametrize(
    ("n", "wrong", "max_error", "sentence"),
    [
        (100, 0, 0.05, "accept 100 % of the answers; at most 5 % of those are wrong, with 95 % certainty"),
        (40, 0, 0.05, "no threshold holds 5 % wrong with 95 % certainty: label 19 more"),
        (100, 0, 0.01, "no threshold holds 1 % wrong with 95 % certainty: label 199 more"),
        (100, 60, 0.05, "no threshold holds 5 % wrong: even among the surest answers more are wrong"),
    ],
)
def test_the_promise_is_a_sentence_or_says_how_many_more_to_label(n, wrong, max_error, sentence):
    confidence, right = np.full(n, 0.9), np.arange(n) >= wrong
    found = guarantee.threshold(confidence, right, max_error)
    assert guarantee.sentence(found, confidence, right) == sentence
