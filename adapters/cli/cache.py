"""Finds a model's files on this machine, in a local folder or the hub library's cache. Downloads nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

# Headers of safetensors are shorter; a longer one belongs to another kind of file.
LONGEST_HEADER = 100_000_000


def folder_of(model_name: str) -> Path | None:
    """The folder with a model's files: a local one, or the cached snapshot of a hub id; None for neither."""
    if Path(model_name).is_dir():
        return Path(model_name)
    from huggingface_hub.constants import HF_HUB_CACHE

    repository = Path(HF_HUB_CACHE) / f"models--{model_name.replace('/', '--')}"
    try:
        commit = (repository / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    snapshot = repository / "snapshots" / commit
    return snapshot if snapshot.is_dir() else None


def size_in(model_name: str) -> int | None:
    """The number of parameters of the weights that are here; 0 where unknown, None without weights."""
    folder = folder_of(model_name)
    if folder is None:
        return None
    files = [*folder.glob("*.safetensors")]
    if not files:
        return 0 if any(folder.glob("*.bin")) else None
    return sum(map(_parameters, files))


def configuration_of(model_name: str) -> dict[str, Any] | None:
    """A model's config.json; None where it is not here or cannot be read."""
    folder = folder_of(model_name)
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8")) if folder else None
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _parameters(file: Path) -> int:
    """The numbers in a safetensors file, by its header."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(length, LONGEST_HEADER)))
        return sum(math.prod(about["shape"]) for name, about in header.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return 0
