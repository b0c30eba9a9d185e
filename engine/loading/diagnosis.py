"""Any error of loading → one that says what is wrong and what to do."""

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import safetensors
import torch
from huggingface_hub import errors as hub

from engine.environment import TOKEN_VARIABLES
from engine.errors import AdapterError, LoadError
from engine.loading.files import find_file, folder, subfolder
from engine.memory import is_out_of_memory
from engine.options import LoadOptions

logger = logging.getLogger(__name__)

_SET_TOKEN = "set a token with access as " + " or ".join(TOKEN_VARIABLES)

# By what the hub library raises, first match along the chain of causes.
_HINTS: dict[type[Exception], str] = {
    hub.GatedRepoError: f"is gated: accept its terms on its page on the hub, then {_SET_TOKEN}",
    hub.RevisionNotFoundError: "has no revision {revision!r}: set revision to a branch, tag or commit of it",
    hub.RepositoryNotFoundError: "is missing: there is no such repository on the hub, or it is private. "
    f"Check the spelling of {{option}}, or {_SET_TOKEN}",
    hub.LocalEntryNotFoundError: "cannot be downloaded: offline, or the hub cannot be reached, and it is not "
    "in the cache. Connect, or set {option} to a local folder that holds it",
    hub.HFValidationError: "is missing: no such folder on this machine, and no hub id (owner/name). "
    "Check the spelling of {option}",
    torch.OutOfMemoryError: "is too large for the GPU: set dtype to bfloat16, or device_map to auto",
}
_TOO_LARGE = "is too large for this machine's memory: set dtype to bfloat16, or take a smaller model"
_AGAIN = "download it again"
_TRUST = "Set trust_remote_code to true if you trust that repository"
# What transformers may read a tokenizer from.
_TOKENIZERS = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken", "tekken.json")
_LFS = b"version https://git-lfs"


@contextmanager
def explained(options: LoadOptions, option: str = "model_name") -> Iterator[None]:
    """Makes any error but our own a `LoadError` that names what was loaded, by the option that names it.

    Causes are left out above the level DEBUG: the one sentence is what a log of a deployment has to show.
    """
    name = getattr(options, option)
    if option == "model_name" and options.local_path:
        name += f" ({options.local_path})"
    try:
        yield
    except AdapterError:
        raise
    except Exception as error:  # Loading runs much code that is not ours, and some of it the model's.
        logger.debug("%s cannot be loaded", name, exc_info=True)
        raise LoadError(f"{name} {_explanation(error, options, option)}") from None


def _explanation(error: Exception, options: LoadOptions, option: str) -> str:
    cause: BaseException | None = error
    while cause:
        for kind, hint in _HINTS.items():
            if isinstance(cause, kind):
                return hint.format(revision=options.revision, option=option)
        if is_out_of_memory(cause):
            return _TOO_LARGE
        cause = cause.__cause__ or cause.__context__
    reason = " ".join(str(error).split()) or type(error).__name__
    if "trust_remote_code" in reason:
        return f"needs code of its own, which is not run. {_TRUST}"
    fault = None
    if option == "model_name":
        with suppress(Exception):  # What is wrong with the hub, say, is in the reason.
            fault = _fault(options, reason)
    return f"cannot be loaded: {fault or reason + _advice(reason, options)}"


def _advice(reason: str, options: LoadOptions) -> str:
    if "safetensors" in reason and options.use_safetensors:
        return " - Pickled weights can run code: set use_safetensors to false if you trust them"
    if "ttention" in reason and options.attn_implementation:
        return " - Leave attn_implementation out to take what this machine has"
    return ""


def _fault(options: LoadOptions, reason: str) -> str | None:
    """What is wrong with the model's files on this machine; None where nothing is found."""
    where = Path(folder(options))
    if where.is_dir():
        root = where / subfolder(options)
        return _damage(root.glob("*.json")) or _absence(root, reason) or _weights_fault(root, options)
    # Of a repository only what was asked for is here.
    config = find_file(options, "config.json")
    return (
        None
        if config is None
        else _damage([*config.parent.glob("*.json"), *config.parent.glob("*.safetensors")])
    )


def _damage(files: Iterable[Path]) -> str | None:
    faults = (_json_fault(file) if file.suffix == ".json" else _file_fault(file) for file in sorted(files))
    return next(filter(None, faults), None)


def _absence(root: Path, reason: str) -> str | None:
    if not (root / "config.json").is_file():
        return (
            "it has no config.json, as every model of transformers has: set model_name to a folder or hub id "
            "with config.json, tokenizer and weights"
        )
    if "tokenizer" in reason and not any(any(root.glob(name)) for name in _TOKENIZERS):
        return (
            "it has no tokenizer (tokenizer.json): copy it there, or set tokenizer to a model with the same"
        )
    return None


def _json_fault(file: Path) -> str | None:
    try:
        with file.open("rb") as opened:
            if opened.read(len(_LFS)) == _LFS:
                return _pointer(file)
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        return f"its {file.name} is no JSON ({error}): {_AGAIN}"
    if file.name == "config.json" and not isinstance(content, dict):
        return f"its config.json is no JSON object: {_AGAIN}"
    return None


def _weights_fault(root: Path, options: LoadOptions) -> str | None:
    """As transformers looks for weights: whole ones before parts, safetensors before pickles."""
    names = ["model.safetensors"] if options.use_safetensors else ["model.safetensors", "pytorch_model.bin"]
    for name in names:
        index = root / f"{name}.index.json"
        if (root / name).is_file():
            return _file_fault(root / name)
        if index.is_file():
            return _index_fault(index)
    if parts := sorted(root.glob("model-*.safetensors")):
        return (
            f"it has {parts[0].name}, but no model.safetensors.index.json, which says what is where: {_AGAIN}"
        )
    if any(root.glob("*.bin")):
        return (
            "it has no model.safetensors. Pickled weights can run code: set use_safetensors to false if you "
            "trust them"
        )
    others = sorted(
        file.name
        for ending in ("gguf", "onnx", "h5", "msgpack", "pt", "pth")
        for file in root.glob(f"*.{ending}")
    )
    instead = f", and {others[0]} is of another kind" if others else ""
    return f"it has no weights (model.safetensors){instead}: {_AGAIN}, or take a model that has them"


def _index_fault(index: Path) -> str | None:
    content = json.loads(index.read_text(encoding="utf-8"))
    named = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(named, dict) or not named or "metadata" not in content:
        return f"its {index.name} does not say what is where (weight_map, metadata): {_AGAIN}"
    files = sorted({str(name) for name in named.values()})
    lost = [name for name in files if not (index.parent / name).is_file()]
    if lost:
        more = f" and {len(lost) - 1} more" if lost[1:] else ""
        return (
            f"its {lost[0]}{more}, of the {len(files)} files that {index.name} names, is not there: {_AGAIN}"
        )
    return _damage(index.parent / name for name in files)


def _file_fault(file: Path) -> str | None:
    with file.open("rb") as opened:
        if opened.read(len(_LFS)) == _LFS:
            return _pointer(file)
    try:
        if file.suffix == ".safetensors":
            with safetensors.safe_open(file, "pt"):
                pass
        else:
            torch.load(file, map_location="meta", weights_only=True)
    except Exception as error:  # Of a pickle, anything.
        reason = " ".join(str(error).split(". ")[0].split())
        return f"its {file.name} is damaged or cut short ({reason}): {_AGAIN}"
    return None


def _pointer(file: Path) -> str:
    return f"its {file.name} only stands for a file of Git LFS: run git lfs pull there, or download it again"
