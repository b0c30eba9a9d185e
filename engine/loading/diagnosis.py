"""Turns any error raised while loading into a `LoadError` that says what is wrong and what to do."""

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
from engine.loading.files import find_file, folder_or_hub_id, transformer_subfolder
from engine.loading.untrusted import PICKLED_HINT
from engine.memory import is_out_of_memory
from engine.options import LoadOptions

logger = logging.getLogger(__name__)

_SET_TOKEN = "set a token with access as " + " or ".join(TOKEN_VARIABLES)

# By exception type; the first match along the chain of causes counts.
_HINTS: dict[type[Exception], str] = {
    hub.GatedRepoError: f"is gated: accept its terms on its page on the hub, then {_SET_TOKEN}",
    hub.RevisionNotFoundError: "has no revision {revision!r}: set revision to a branch, tag or commit of it",
    hub.RepositoryNotFoundError: "is missing: there is no such repository on the hub, or it is private. "
    f"Check the spelling of {{option}}, or {_SET_TOKEN}",
    hub.LocalEntryNotFoundError: "cannot be downloaded: offline, or the hub cannot be reached, and it is not "
    "in the cache. Connect, or set {option} to a local folder that holds it. With HF_HUB_OFFLINE=1 in the "
    "environment, models in the cache are loaded without trying the hub",
    hub.HFValidationError: "is missing: no such folder on this machine, and no hub id (owner/name). "
    "Check the spelling of {option}",
    torch.OutOfMemoryError: "is too large for the GPU: set dtype to bfloat16, or device_map to auto",
}
_TOO_LARGE = "is too large for this machine's memory: set dtype to bfloat16, or take a smaller model"
_AGAIN = "download it again"
_TRUST = "Set trust_remote_code to true if you trust that repository"
# Files from which transformers can load a tokenizer.
_TOKENIZER_FILES = ("tokenizer.json", "*.model", "vocab.*", "*.tiktoken", "tekken.json")
_LFS_HEADER = b"version https://git-lfs"


@contextmanager
def explain_load_errors(options: LoadOptions, option: str = "model_name") -> Iterator[None]:
    """Context manager: reraises foreign errors as a `LoadError` that names the model and the remedy.

    The traceback of the cause is logged at DEBUG only, so that a deployment's log shows one sentence.

    Args:
        option: the option that names what is loaded, "model_name" or "tokenizer".

    Raises:
        LoadError: in place of any error that is no `AdapterError`.
    """
    name = getattr(options, option)
    if option == "model_name" and options.local_path:
        name += f" ({options.local_path})"
    try:
        yield
    except AdapterError:
        raise
    except Exception as error:  # Loading runs foreign code, some of it the model's own.
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
    problem = None
    if option == "model_name":
        with suppress(Exception):  # The error itself then has to do.
            problem = _file_problem(options, reason)
    return f"cannot be loaded: {problem or reason + _option_hint(reason, options)}"


def _option_hint(reason: str, options: LoadOptions) -> str:
    if "safetensors" in reason and options.use_safetensors:
        return f" - {PICKLED_HINT}"
    if "ttention" in reason and options.attn_implementation:
        return " - Leave attn_implementation out to take what this machine has"
    return ""


def _file_problem(options: LoadOptions, reason: str) -> str | None:
    """What is wrong with the model's local files; None if nothing is found."""
    where = Path(folder_or_hub_id(options))
    if where.is_dir():
        root = where / transformer_subfolder(options)
        damaged = _first_damaged(root.glob("*.json"))
        return damaged or _missing_essentials(root, reason) or _weights_problem(root, options)
    # Only requested files of a hub repository are here.
    config = find_file(options, "config.json")
    return (
        None
        if config is None
        else _first_damaged([*config.parent.glob("*.json"), *config.parent.glob("*.safetensors")])
    )


def _first_damaged(files: Iterable[Path]) -> str | None:
    problems = (
        _json_problem(file) if file.suffix == ".json" else _weight_file_problem(file)
        for file in sorted(files)
    )
    return next(filter(None, problems), None)


def _missing_essentials(root: Path, reason: str) -> str | None:
    if not (root / "config.json").is_file():
        return (
            "it has no config.json, as every model of transformers has: set model_name to a folder or hub id "
            "with config.json, tokenizer and weights"
        )
    if "tokenizer" in reason and not any(any(root.glob(name)) for name in _TOKENIZER_FILES):
        return (
            "it has no tokenizer (tokenizer.json): copy it there, or set tokenizer to a model with the same"
        )
    return None


def _json_problem(file: Path) -> str | None:
    try:
        with file.open("rb") as opened:
            if opened.read(len(_LFS_HEADER)) == _LFS_HEADER:
                return _lfs_pointer(file)
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        return f"its {file.name} is not JSON ({error}): {_AGAIN}"
    if file.name == "config.json" and not isinstance(content, dict):
        return f"its config.json is not a JSON object: {_AGAIN}"
    return None


def _weights_problem(root: Path, options: LoadOptions) -> str | None:
    """Checks weights in the order of transformers: one file before shards, safetensors before pickles."""
    names = ["model.safetensors"] if options.use_safetensors else ["model.safetensors", "pytorch_model.bin"]
    for name in names:
        index = root / f"{name}.index.json"
        if (root / name).is_file():
            return _weight_file_problem(root / name)
        if index.is_file():
            return _index_problem(index)
    if parts := sorted(root.glob("model-*.safetensors")):
        return (
            f"it has {parts[0].name}, but no model.safetensors.index.json, which says what is where: {_AGAIN}"
        )
    if any(root.glob("*.bin")):
        return f"it has no model.safetensors. {PICKLED_HINT}"
    others = sorted(
        file.name
        for ending in ("gguf", "onnx", "h5", "msgpack", "pt", "pth")
        for file in root.glob(f"*.{ending}")
    )
    instead = f", and {others[0]} is of another kind" if others else ""
    return f"it has no weights (model.safetensors){instead}: {_AGAIN}, or take a model that has them"


def _index_problem(index: Path) -> str | None:
    content = json.loads(index.read_text(encoding="utf-8"))
    named = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(named, dict) or not named or "metadata" not in content:
        return f"its {index.name} does not say what is where (weight_map, metadata): {_AGAIN}"
    files = sorted({str(name) for name in named.values()})
    missing = [name for name in files if not (index.parent / name).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        return (
            f"its {missing[0]}{more}, of the {len(files)} files that {index.name} names, is not there: "
            f"{_AGAIN}"
        )
    return _first_damaged(index.parent / name for name in files)


def _weight_file_problem(file: Path) -> str | None:
    with file.open("rb") as opened:
        if opened.read(len(_LFS_HEADER)) == _LFS_HEADER:
            return _lfs_pointer(file)
    try:
        if file.suffix == ".safetensors":
            with safetensors.safe_open(file, "pt"):
                pass
        else:
            torch.load(file, map_location="meta", weights_only=True)
    except Exception as error:  # A pickle can raise anything.
        reason = " ".join(str(error).split(". ")[0].split())
        return f"its {file.name} is damaged or cut short ({reason}): {_AGAIN}"
    return None


def _lfs_pointer(file: Path) -> str:
    return f"its {file.name} only stands for a file of Git LFS: run git lfs pull there, or download it again"
