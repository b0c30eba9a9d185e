"""Finds and reads the files of a model, in its local folder or in the hub cache."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from transformers.utils import cached_file

from engine.environment import hub_token
from engine.errors import ConfigurationError, LoadError
from engine.loading.reachability import hub_is_reachable
from engine.options import LoadOptions


def folder_or_hub_id(options: LoadOptions) -> str:
    """Where the model is: its local folder if there is one, else its hub id.

    Raises:
        ConfigurationError: `local_path` is no folder.
    """
    if options.local_path is not None and not Path(options.local_path).is_dir():
        raise ConfigurationError(f"local_path {options.local_path!r} is not a folder on this machine")
    return options.local_path or options.model_name


def hub_arguments(options: LoadOptions) -> dict[str, Any]:
    """Keyword arguments for the hub library: revision, token, and whether to read its cache only."""
    # A local folder has no revisions; the option is about `model_name`.
    revision = None if options.local_path else options.revision
    return {"revision": revision, "token": hub_token(), **cache_only(folder_or_hub_id(options))}


def cache_only(name: str) -> dict[str, bool]:
    """The keyword argument to read the hub library's cache only, if the hub is needed but not reachable."""
    return {} if Path(name).is_dir() or hub_is_reachable() else {"local_files_only": True}


def find_file(options: LoadOptions, name: str) -> Path | None:
    """The local path of one of the model's files, downloaded if needed; None if it has no such file."""
    path = cached_file(
        folder_or_hub_id(options),
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **hub_arguments(options),
    )
    return None if path is None else Path(path)


def revision_of(options: LoadOptions) -> str | None:
    """The commit of a hub repository in the cache, or else the configured revision; None for a folder."""
    if Path(folder_or_hub_id(options)).is_dir():
        return None
    for name in ("adapter_config.json", "config.json"):
        file = try_to_load_from_cache(options.model_name, name, revision=options.revision)
        if isinstance(file, str):
            return Path(file).parent.name
    return options.revision


def read_json(options: LoadOptions, name: str) -> Any:
    """The content of one of the model's JSON files; None if the model has no such file.

    Raises:
        LoadError: the file is no valid JSON.
    """
    file = find_file(options, name)
    try:
        return None if file is None else json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LoadError(
            f"{options.model_name} cannot be loaded: its {name} is not JSON ({error}): download it again"
        ) from None


def transformer_subfolder(options: LoadOptions) -> str:
    """The subfolder with the transformers model in an old sentence-transformers folder; else ""."""
    if find_file(options, "config.json"):
        return ""
    modules = read_json(options, "modules.json") or ()
    paths = (module["path"] for module in modules if is_transformer(module["type"]))
    return next(paths, "")


def is_logit_score(module: str) -> bool:
    """Whether a sentence-transformers module class is the one that makes a score of a model's logits."""
    return _is_module(module, "LogitScore")


def is_transformer(module: str) -> bool:
    """Whether a sentence-transformers module class is the one that wraps a transformers model."""
    return _is_module(module, "Transformer")


def _is_module(module: str, name: str) -> bool:
    return module.split(".")[0] == "sentence_transformers" and module.endswith(f".{name}")
