"""A loaded model with a calibration that halves its confidences."""

import models
from adapters.hugging import HuggingAdapter
from engine.confidence.calibration import Calibration, Threshold


def calibrated_talk(**configuration: float) -> HuggingAdapter:
    """TinyTalk, whose confidences are halved; answers from 0.5 are accepted at an error rate of 0.1."""
    adapter = models.load("tiny_talk", configuration)
    method, name, options = adapter.evaluated()
    thresholds = (Threshold(0.1, 0.9, 0.5, 0.9),)
    points = ((0.0, 0.0), (1.0, 0.5))
    adapter.calibration = Calibration("isotonic", points, 9, method, "exact_match", thresholds, name, options)
    return adapter
