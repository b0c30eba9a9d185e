"""Computes the embeddings of texts."""

from engine.embedding.embedder import DEFAULTS, Embedder

__all__ = ["DEFAULTS", "Embedder"]
