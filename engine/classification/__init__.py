"""Classifies texts with a model's classification head: rerankers, cross-encoders, reward models."""

from engine.classification.classifier import Classification, Classifier

__all__ = ["Classification", "Classifier"]
