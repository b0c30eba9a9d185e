"""The registry of models: each file in models/ is one, named after its file."""

import contextlib
import difflib
import importlib.util
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from adapters import model_file
from engine.errors import AdapterError, ConfigurationError

# The model file of any weights.
ANY_MODEL = "auto_causal_lm"
FOLDER = Path(__file__).resolve().parents[1] / "models"


def names() -> list[str]:
    """The names of all models, sorted. Imports none of them."""
    return sorted(path.stem for path in FOLDER.glob("[!._]*.py"))


def resolve_name(name: str) -> str:
    """The name of a model's file, without ".py", from any spelling of it or one of its `model_deploys`.

    "tiny_talk", "models.tiny_talk" and "tiny-talk" are the same name. A file outside models/ has no name.

    Raises:
        ConfigurationError: no such model, or two files of one name.
    """
    wanted = str(name).removeprefix("models.")
    stems = names()
    spelled = {_plain(stem): stem for stem in stems} | {stem: stem for stem in stems}
    found = spelled.get(wanted) or spelled.get(_plain(wanted)) or _deployed(wanted)
    if found is None:
        near = difflib.get_close_matches(_plain(wanted), spelled, n=1)
        hint = f"did you mean {spelled[near[0]]!r}? " if near else ""
        own = f"take {ANY_MODEL} with the model_name {name!r}" if "/" in wanted else f"add models/{name}.py"
        raise ConfigurationError(
            f"there is no model {name!r}: {hint}module_name is one of {', '.join(stems)}, or {own}"
        )
    same = [f"models/{stem}.py" for stem in stems if _plain(stem) == _plain(found)]
    if len(same) > 1:
        raise ConfigurationError(f"{' and '.join(same)} are one name, {_plain(found)}: rename one of them")
    return found


def chosen(name: str, configuration: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
    """The name of a model's file (see `resolve_name`), and its configuration.

    A name with a slash that is no model file is a hub id or a folder, for `auto_causal_lm`.

    Raises:
        ConfigurationError: there is no such model.
    """
    given = dict(configuration or {})
    if "/" in str(name) and name.removeprefix("models.") not in names():
        return ANY_MODEL, {"model_name": name, **given}
    return resolve_name(name), given


def find(name: str) -> type:
    """The `HuggingAdapter` class of a model file, by any spelling of its name.

    Raises:
        ConfigurationError: there is no such model, or its file cannot be imported or has no class
            `HuggingAdapter` with a method `predict`.
    """
    found = resolve_name(name)
    adapter = getattr(_module(found), "HuggingAdapter", None)
    if not isinstance(adapter, type):
        raise ConfigurationError(
            f"models/{found}.py has no class HuggingAdapter: add one, or remove the file and run "
            f"python -m adapters new {_plain(found)} --from OWNER/NAME"
        )
    if not callable(getattr(adapter, "predict", None)):
        raise ConfigurationError(
            f"models/{found}.py: HuggingAdapter has no method predict(batch, **kwargs): add it, or subclass "
            "adapters.hugging.HuggingAdapter"
        )
    return adapter


def load(name: str, configuration: Mapping[str, Any] | None = None) -> Any:
    """Loads the model of a name (see `chosen`) with a configuration.

    Returns:
        An instance of the model file's class `HuggingAdapter`.

    Raises:
        ConfigurationError: there is no such model, or an option is invalid.
        LoadError: the weights cannot be loaded.
    """
    name, given = chosen(name, configuration)
    adapter = make(name, given)
    if hasattr(adapter, "load"):
        with _told(name, "cannot be loaded"):
            adapter.load(None)
    return adapter


def make(name: str, configuration: Mapping[str, Any] | None = None) -> Any:
    """A model that is not loaded yet, from its file's name and a configuration.

    Raises:
        ConfigurationError: no such model, or an invalid option.
    """
    adapter = find(name)
    with _told(name, "cannot be made"):
        return adapter(dict(configuration or {}))


@contextlib.contextmanager
def _told(name: str, what: str) -> Iterator[None]:
    """Adds the place in a custom model file to any exception."""
    try:
        yield
    except AdapterError:
        raise
    except Exception as error:
        raise ConfigurationError(f"models/{resolve_name(name)}.py {what}: {described(error)}") from error


def described(error: BaseException) -> str:
    """An exception as text: its type and message, and file and line if a model file raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).parent == FOLDER]
    place = f" (models/{Path(ours[-1].filename).name}, line {ours[-1].lineno})" if ours else ""
    return f"{type(error).__name__}: {error}{place}"


def _deployed(name: str) -> str | None:
    """The file of the model with this name in `model_deploys`, case-insensitive; None if there is none."""
    for stem in names():
        if name.casefold() in map(str.casefold, _deploys(stem)):
            return stem
    return None


def _deploys(stem: str) -> Iterable[str]:
    """A model's public names; its file is imported only where it computes them."""
    imported = sys.modules.get(f"models.{stem}")
    try:
        if imported is None:
            file = model_file.read(FOLDER / f"{stem}.py")
            if "model_deploys" not in file.unknown:
                return tuple(file.attributes.get("model_deploys", ()))
        return tuple(getattr(find(stem), "model_deploys", ()))
    except (ConfigurationError, OSError, SyntaxError, ValueError):
        return ()  # A broken file has no names; loading it reports the error.


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
    except Exception as error:  # Custom code: any exception is possible.
        del sys.modules[qualified]
        raise ConfigurationError(f"models/{path.name} cannot be imported: {described(error)}") from error
    return module
