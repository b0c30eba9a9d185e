"""Scores given texts as continuations of a prompt: their log-probabilities, without generating."""

from engine.scoring.scorer import NumberedPair, Score, Scores, next_logits, score, score_pairs

__all__ = ["NumberedPair", "Score", "Scores", "next_logits", "score", "score_pairs"]
