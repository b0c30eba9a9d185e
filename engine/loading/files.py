"""The files of a model's folder or repository, on this machine."""

import json
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from engine.environment import hub_token
from engine.errors import ConfigurationError, LoadError
from engine.options import LoadOptions


def folder(options: LoadOptions) -> str:
    """Where the model is: a folder or a hub id.

    Raises:
        ConfigurationError: a `local_path` that is no folder.
    """
    if options.local_path is not None and not Path(options.local_path).is_dir():
        raise ConfigurationError(f"local_path {options.local_path!r} is no folder on this machine")
    return options.local_path or options.model_name


def source(options: LoadOptions) -> dict[str, Any]:
    """What the hub library is told beside the folder or hub id."""
    # A folder has no revisions, and the one given is of `model_name`.
    return {"revision": None if options.local_path else options.revision, "token": hub_token()}


def find_file(options: LoadOptions, name: str) -> Path | None:
    """Where a file of the model's folder or repository is on this machine; None where there is none."""
    found = cached_file(
        folder(options),
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **source(options),
    )
    return None if found is None else Path(found)


def read_json(options: LoadOptions, name: str) -> Any:
    """What is in a JSON file of the model's folder or repository; None where there is none.

    Raises:
        LoadError: it is no JSON.
    """
    file = find_file(options, name)
    try:
        return None if file is None else json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LoadError(
            f"{options.model_name} cannot be loaded: its {name} is no JSON ({error}): download it again"
        ) from None


def subfolder(options: LoadOptions) -> str:
    """Where in its folder an old sentence-transformers model is; of all others "", the folder itself."""
    if find_file(options, "config.json"):
        return ""
    modules = read_json(options, "modules.json") or ()
    paths = (module["path"] for module in modules if is_transformer(module["type"]))
    return next(paths, "")


def is_transformer(module: str) -> bool:
    """Whether the class of a sentence-transformers module is the one that runs a model of transformers."""
    return module.split(".")[0] == "sentence_transformers" and module.endswith(".Transformer")
