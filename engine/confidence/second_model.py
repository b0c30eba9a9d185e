"""A second model beside the one that answers: it compares texts, or judges answers."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from engine.backends.local import LocalEngine


@lru_cache(maxsize=2)
def second_model(name: str, task: Literal["generate", "embed"]) -> LocalEngine:
    """Loads a model, once.

    Args:
        name: hub id or local folder.

    Raises:
        LoadError: gated, missing, offline or unsafe; the text says what to do.
    """
    from engine.backends.local import LocalEngine
    from engine.loading import load
    from engine.options import LoadOptions

    return LocalEngine(load(LoadOptions(model_name=name), task))
