"""A conversation → token ids."""
