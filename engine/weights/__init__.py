"""Prepacked weights: each weight in the memory layout and dtype that this machine multiplies fastest."""
