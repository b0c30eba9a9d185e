"""Prompt items and traces, read and written as JSON."""
