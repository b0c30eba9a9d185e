"""Predicts answers of items, with any model file."""
