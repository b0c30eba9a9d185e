"""The registry: each file in this folder is a model, its name the file's."""

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from engine.errors import ConfigurationError

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """The names of all models, sorted. Imports none of them."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")


def find(name: str) -> type:
    """The `HuggingAdapter` class of a model file, by `module_name` or file name.

    "tiny_talk", "models.tiny_talk" and "tiny-talk" are one name. Nothing outside this folder can be named.

    Raises:
        ConfigurationError: no such model, or its file has no class `HuggingAdapter`.
    """
    wanted = str(name).removeprefix("models.")
    spelled = {_plain(stem): stem for stem in names()} | {stem: stem for stem in names()}
    stem = spelled.get(wanted) or spelled.get(_plain(wanted))
    if stem is None:
        raise ConfigurationError(
            f"there is no model {name!r}: module_name is one of {', '.join(names())}, or add models/{name}.py"
        )
    adapter = getattr(_module(stem), "HuggingAdapter", None)
    if not isinstance(adapter, type):
        raise ConfigurationError(f"models/{stem}.py has no class HuggingAdapter: add one")
    return adapter


def load(name: str, configuration: Mapping[str, Any] | None = None) -> Any:
    """A model that is ready to predict, from its file's name and a configuration.

    Raises:
        ConfigurationError: no such model, or an option that cannot be.
        LoadError: weights that cannot be loaded.
    """
    adapter = find(name)(dict(configuration or {}))
    if hasattr(adapter, "load"):
        adapter.load()
    return adapter


def _plain(name: str) -> str:
    return name.replace("-", "_").lower()


def _module(stem: str) -> ModuleType:
    # By path: a file name with a hyphen is no import name, and an installed package `models` cannot win.
    qualified = f"models.{stem}"
    if qualified not in sys.modules:
        spec = importlib.util.spec_from_file_location(qualified, FOLDER / f"{stem}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[qualified] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[qualified]
            raise
    return sys.modules[qualified]
