"""What tells one model from another: the content of its files, how they are loaded, and what runs them."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import engine
from engine.errors import ConfigurationError
from engine.loading import files, lora
from engine.options import LoadOptions

# Endings of the files that a model is loaded from: weights, configurations, tokenizers, templates, code.
_WEIGHTS = {".bin", ".safetensors"}
_ENDINGS = _WEIGHTS | {".jinja", ".json", ".model", ".py", ".spm", ".tiktoken", ".txt"}
# Options that say where files are; their content tells what they are.
_PLACES = {"local_path", "model_name", "offload_folder", "revision", "tokenizer"}
_PACKAGES = ("accelerate", "bitsandbytes", "peft", "tokenizers", "torch", "transformers")


def identity(options: LoadOptions) -> str:
    """A digest that two models share only if they give the same answers: 64 hexadecimal digits.

    Files of a local folder are read; those of the hub library's cache are known by their names there, which
    are digests of their content. The model has to be loaded, so that its files are there.

    Raises:
        ConfigurationError: no weights are found.
    """
    found = list(_files(options))
    if not any(Path(name).suffix in _WEIGHTS for name, _ in found):
        raise ConfigurationError(
            f"option 'cache': the weights of {options.model_name} are not in its folder: leave it out"
        )
    parts = {
        "options": options.model_dump(mode="json", exclude=_PLACES),
        "files": found,
        "versions": {name: _version(name) for name in _PACKAGES},
        "engine": _source(),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _files(options: LoadOptions) -> Iterator[tuple[str, str]]:
    """Name and digest of each file of the model, of its base model and of its tokenizer."""
    places = [options]
    adapter = lora.find_adapter(options, "embed")
    if adapter is not None:
        places.append(lora.base_options(options, adapter))
    if options.tokenizer is not None:
        places.append(LoadOptions(model_name=options.tokenizer))
    for place in places:
        for name in ("config.json", "adapter_config.json", "tokenizer_config.json"):
            if (found := files.find_file(place, name)) is not None:
                yield from _folder(found.parent)
                break


def _folder(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in _ENDINGS:
            yield path.name, _digest(path)


def _digest(path: Path) -> str:
    real = path.resolve()
    if real.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", real.name):
        return real.name
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _source() -> str:
    """A digest of this engine's own code: what it changes may change answers."""
    digest = hashlib.sha256()
    for path in sorted(Path(os.path.dirname(engine.__file__)).rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
