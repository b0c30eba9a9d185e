"""The registry of models: each file in models/ is one, named after its file."""

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from engine.errors import ConfigurationError

FOLDER = Path(__file__).resolve().parents[1] / "models"


def names() -> list[str]:
    """The names of all models, sorted. Imports none of them."""
    return sorted(path.stem for path in FOLDER.glob("[!._]*.py"))


def stem(name: str) -> str:
    """The name of a model's file, without ".py", from any spelling of it or one of its `model_deploys`.

    "tiny_talk", "models.tiny_talk" and "tiny-talk" are the same name. A file outside models/ has no name.

    Raises:
        ConfigurationError: no such model.
    """
    wanted = str(name).removeprefix("models.")
    stems = names()
    spelled = {_plain(stem): stem for stem in stems} | {stem: stem for stem in stems}
    found = spelled.get(wanted) or spelled.get(_plain(wanted)) or _deployed(wanted)
    if found is None:
        raise ConfigurationError(
            f"there is no model {name!r}: module_name is one of {', '.join(stems)}, or add models/{name}.py"
        )
    return found


def find(name: str) -> type:
    """The `HuggingAdapter` class of a model file, by any spelling of its name.

    Raises:
        ConfigurationError: there is no such model, or its file cannot be imported or has no class
            `HuggingAdapter`.
    """
    found = stem(name)
    adapter = getattr(_module(found), "HuggingAdapter", None)
    if not isinstance(adapter, type):
        raise ConfigurationError(f"models/{found}.py has no class HuggingAdapter: add one")
    return adapter


def load(name: str, configuration: Mapping[str, Any] | None = None) -> Any:
    """Loads the model of a name (see `stem`) with a configuration.

    Returns:
        An instance of the model file's class `HuggingAdapter`.

    Raises:
        ConfigurationError: there is no such model, or an option is invalid.
        LoadError: the weights cannot be loaded.
    """
    adapter = find(name)(dict(configuration or {}))
    if hasattr(adapter, "load"):
        adapter.load(None)
    return adapter


def _deployed(name: str) -> str | None:
    """The file of the model with this name in `model_deploys`, case-insensitive; None if there is none."""
    for stem in names():
        try:
            deploys = getattr(find(stem), "model_deploys", ())
        except ConfigurationError:  # A broken file has no names; it says so when it is asked for.
            continue
        if name.casefold() in map(str.casefold, deploys):
            return stem
    return None


def _plain(name: str) -> str:
    return name.replace("-", "_").lower()


def _module(stem: str) -> ModuleType:
    # By path: a file name with a hyphen is no import name, and an installed package `models` cannot win.
    qualified, path = f"models.{stem}", FOLDER / f"{stem}.py"
    known = sys.modules.get(qualified)
    if known is not None and known.__file__ == str(path):
        return known
    spec = importlib.util.spec_from_file_location(qualified, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[qualified] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # A user's own code: anything can happen.
        del sys.modules[qualified]
        raise ConfigurationError(f"models/{path.name} cannot be imported: {error!r}") from error
    return module
