"""Load options → a model and its tokenizer, or an error that says what to do."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from huggingface_hub import errors as hub
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from engine.errors import AdapterError, ConfigurationError, LoadError
from engine.memory import free_memory
from engine.options import LoadOptions
from engine.weights import multiplies

# Else transformers hands pickled weights' names, and the token, to a service that converts them.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")

TOKEN_VARIABLES = ("HUGGINGFACE_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in evaluation mode, its tokenizer, and its window.

    Attributes:
        window: the most tokens a sequence may have (prompt and answer together; the prompt alone and
            the answer alone for an encoder-decoder model); None where there is no bound.
        options: what it was loaded with; None where it did not come from files.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    window: int | None
    options: LoadOptions | None = None


def load(options: LoadOptions, task: Literal["generate", "embed"] = "generate") -> Loaded:
    """Loads a model from the hub or a local folder.

    Args:
        task: "embed" loads encoders too, a language model without its head, and of an encoder-decoder model
            the encoder alone where transformers has a class for that.

    Raises:
        LoadError: gated, missing, offline, pickled or too large; the text says which and what to do.
        ConfigurationError: a device that this machine does not have.
    """
    source = _source(options) | {"trust_remote_code": options.trust_remote_code}
    device = _device(options.device)
    placement: Any = options.device_map or {"": device}
    with explained(options):
        config = transformers.AutoConfig.from_pretrained(options.model_name, **source)
        tokenizer = transformers.AutoTokenizer.from_pretrained(options.model_name, **source)
        architecture = _architecture(config, task)
        dtype = _dtype(options.dtype, config, device)
        if options.device_map is None:
            _check_memory(architecture, config, dtype, device, options)
        with _quiet() if task == "embed" else nullcontext():
            model, report = architecture.from_pretrained(
                options.model_name,
                config=config,
                dtype=dtype,
                device_map=placement,
                max_memory=options.max_memory,
                attn_implementation=options.attn_implementation,
                use_safetensors=True if options.use_safetensors else None,
                output_loading_info=True,
                **source,
            )
        if task == "embed":
            _check_complete(options, report["missing_keys"])
    return Loaded(model.eval(), tokenizer, _window(config, tokenizer), options)


def find_file(options: LoadOptions, name: str) -> Path | None:
    """Where a file of the model's folder or repository is on this machine; None where there is none."""
    found = cached_file(
        options.model_name,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **_source(options),
    )
    return None if found is None else Path(found)


def hub_token() -> str | None:
    """The hub's token from the environment; None leaves the hub library to its own login."""
    # Stripped: a file's last newline makes a header that is refused, and quoted in the refusal.
    given = (os.environ.get(name, "").strip() for name in TOKEN_VARIABLES)
    return next(filter(None, given), None)


def _source(options: LoadOptions) -> dict[str, Any]:
    return {"revision": options.revision, "token": hub_token()}


def _architecture(config: PretrainedConfig, task: str) -> Any:
    if task == "embed":
        known = type(config) in transformers.MODEL_FOR_TEXT_ENCODING_MAPPING
        return transformers.AutoModelForTextEncoding if known else transformers.AutoModel
    if config.is_encoder_decoder:
        return transformers.AutoModelForSeq2SeqLM
    return transformers.AutoModelForCausalLM


@contextmanager
def _quiet() -> Iterator[None]:
    # A head or a decoder that is left aside is reported by transformers as if it were a fault.
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)


def _check_complete(options: LoadOptions, missing: set[str]) -> None:
    # transformers fills what is missing with random numbers. A pooler is a head that embedding does not use.
    needed = sorted(name for name in missing if "pooler" not in name.split("."))
    if needed:
        raise LoadError(
            f"{options.model_name} has no weights for {', '.join(needed[:3])}{' …' if needed[3:] else ''} "
            f"({len(needed)} in all): take a model whose checkpoint is complete"
        )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise ConfigurationError(
            f"device {name!r} is not to be had here ({reason}): use auto or cpu"
        ) from None
    return device


def _dtype(name: str, config: PretrainedConfig, device: torch.device) -> torch.dtype:
    if name != "auto":
        return getattr(torch, name)
    own = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    if device.type != "cpu":
        return own
    # Half precision that a CPU has no instructions for is slower; what it has them for is so in batches.
    return own if own == torch.bfloat16 and multiplies(own) else torch.float32


def _window(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int | None:
    text = config.get_text_config(decoder=True)
    # T5 has relative positions and names its bound, if at all, in the tokenizer; "none" is 10**30 there.
    bounds = (getattr(text, "max_position_embeddings", None), tokenizer.model_max_length)
    return next((bound for bound in bounds if bound and 0 < bound < 10**9), None)


def _check_memory(
    architecture: Any,
    config: PretrainedConfig,
    dtype: torch.dtype,
    device: torch.device,
    options: LoadOptions,
) -> None:
    if getattr(config, "quantization_config", None):
        return  # Its size does not follow from the configuration.
    with torch.device("meta"):
        model = architecture.from_config(config, trust_remote_code=options.trust_remote_code)
    needed = sum(weight.numel() for weight in model.parameters()) * dtype.itemsize
    free = free_memory(device)
    if needed > free:
        raise LoadError(
            f"{options.model_name} is too large: its weights take {needed / 2**30:.1f} GiB in "
            f"{str(dtype).removeprefix('torch.')} and {device} has {free / 2**30:.1f} GiB free. Set dtype to "
            'bfloat16, or device_map to "auto" to spread it over several devices, or take a smaller model'
        )


_SET_TOKEN = "set a token with access as " + " or ".join(TOKEN_VARIABLES)

# By what the hub library raises, first match along the chain of causes.
_HINTS: dict[type[Exception], str] = {
    hub.GatedRepoError: f"is gated: accept its terms on its page on the hub, then {_SET_TOKEN}",
    hub.RevisionNotFoundError: "has no revision {revision!r}: set revision to a branch, tag or commit of it",
    hub.RepositoryNotFoundError: "is missing: there is no such repository on the hub, or it is private. "
    f"Check the spelling of model_name, or {_SET_TOKEN}",
    hub.LocalEntryNotFoundError: "cannot be downloaded: offline, or the hub cannot be reached, and it is not "
    "in the cache. Connect, or set model_name to a local folder that holds it",
    hub.HFValidationError: "is missing: no such folder on this machine, and no hub id (owner/name). "
    "Check the spelling of model_name",
    MemoryError: "is too large for this machine's memory: set dtype to bfloat16, or take a smaller model",
    torch.OutOfMemoryError: "is too large for the GPU: set dtype to bfloat16, or device_map to auto",
}


@contextmanager
def explained(options: LoadOptions) -> Iterator[None]:
    """Makes any error but our own a `LoadError` that names the model and says what to do."""
    try:
        yield
    except AdapterError:
        raise
    except Exception as error:  # Loading runs much code that is not ours, and some of it the model's.
        cause: BaseException | None = error
        while cause:
            for kind, hint in _HINTS.items():
                if isinstance(cause, kind):
                    raise LoadError(
                        f"{options.model_name} {hint.format(revision=options.revision)}"
                    ) from error
            cause = cause.__cause__ or cause.__context__
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LoadError(
            f"{options.model_name} cannot be loaded: {reason}{_advice(reason, options)}"
        ) from error


def _advice(reason: str, options: LoadOptions) -> str:
    if "safetensors" in reason and options.use_safetensors:
        return " - Pickled weights can run code: set use_safetensors to false if you trust them"
    if "trust_remote_code" in reason:
        return " - Set trust_remote_code to true if you trust the code of that repository"
    if "ttention" in reason and options.attn_implementation:
        return " - Leave attn_implementation out to take what this machine has"
    return ""
