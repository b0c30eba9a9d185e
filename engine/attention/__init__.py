"""Attention over sequences of any lengths in one forward pass, without padding."""
