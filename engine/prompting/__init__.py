"""Turns conversations into token ids."""
