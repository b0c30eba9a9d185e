"""Scores given texts as continuations of a prompt: their log-probabilities, without generating."""

from engine.scoring.scorer import Score, Scores, next_logits, score

__all__ = ["Score", "Scores", "next_logits", "score"]
