"""Environment variables. This module imports nothing heavy."""

import os

TOKEN_VARIABLES = ("HUGGINGFACE_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
MODEL_VARIABLES = ("HF_MODEL_NAME", "MODEL_NAME")


def hub_token() -> str | None:
    """The access token of the hub; None lets the hub library use its own login."""
    return _first(TOKEN_VARIABLES)


def model_name_from_environment() -> str | None:
    """The model name to use if neither configuration nor model file has one; None if unset."""
    return _first(MODEL_VARIABLES)


def _first(names: tuple[str, ...]) -> str | None:
    # Stripped: with a trailing newline the header is invalid, and the error would quote the token.
    given = (os.environ.get(name, "").strip() for name in names)
    return next(filter(None, given), None)
