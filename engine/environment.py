"""What the environment sets; importing this imports nothing else."""

import os

TOKEN_VARIABLES = ("HUGGINGFACE_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
MODEL_VARIABLES = ("HF_MODEL_NAME", "MODEL_NAME")


def hub_token() -> str | None:
    """The hub's token; None leaves the hub library to its own login."""
    return _first(TOKEN_VARIABLES)


def model_name_from_environment() -> str | None:
    """The model where neither the configuration nor the model file names one."""
    return _first(MODEL_VARIABLES)


def _first(names: tuple[str, ...]) -> str | None:
    # Stripped: a file's last newline makes a header that is refused, and quoted in the refusal.
    given = (os.environ.get(name, "").strip() for name in names)
    return next(filter(None, given), None)
