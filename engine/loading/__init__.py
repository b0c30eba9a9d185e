"""Loads a model and its tokenizer, or raises an error that says what to do."""

from engine.loading.description import Description, describe
from engine.loading.loader import Loaded, load, memory_footprint

__all__ = ["Description", "Loaded", "describe", "load", "memory_footprint"]
