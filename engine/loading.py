"""Load options → a model and its tokenizer, or an error that says what to do."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import torch
import transformers
from huggingface_hub import errors as hub
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from engine.errors import AdapterError, ConfigurationError, LoadError
from engine.options import LoadOptions

# Else transformers hands pickled weights' names, and the token, to a service that converts them.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")

TOKEN_VARIABLES = ("HUGGINGFACE_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in evaluation mode, its tokenizer, and its window.

    Attributes:
        window: the most tokens a sequence may have (prompt and answer together; the prompt alone and
            the answer alone for an encoder-decoder model); None where there is no bound.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    window: int | None


def load(options: LoadOptions) -> Loaded:
    """Loads a model from the hub or a local folder.

    Raises:
        LoadError: gated, missing, offline, pickled or too large; the text says which and what to do.
        ConfigurationError: a device that this machine does not have.
    """
    source = {
        "revision": options.revision,
        "token": hub_token(),
        "trust_remote_code": options.trust_remote_code,
    }
    device = _device(options.device)
    with _explained(options):
        config = transformers.AutoConfig.from_pretrained(options.model_name, **source)
        tokenizer = transformers.AutoTokenizer.from_pretrained(options.model_name, **source)
        architecture = (
            transformers.AutoModelForSeq2SeqLM
            if config.is_encoder_decoder
            else transformers.AutoModelForCausalLM
        )
        dtype = _dtype(options.dtype, config, device)
        if options.device_map is None:
            _check_memory(architecture, config, dtype, device, options)
        model = architecture.from_pretrained(
            options.model_name,
            config=config,
            dtype=dtype,
            device_map=options.device_map or {"": device},
            max_memory=options.max_memory,
            attn_implementation=options.attn_implementation,
            use_safetensors=True if options.use_safetensors else None,
            **source,
        )
    return Loaded(model.eval(), tokenizer, _window(config, tokenizer))


def hub_token() -> str | None:
    """The hub's token from the environment; None leaves the hub library to its own login."""
    # Stripped: a file's last newline makes a header that is refused, and quoted in the refusal.
    given = (os.environ.get(name, "").strip() for name in TOKEN_VARIABLES)
    return next(filter(None, given), None)


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
    # On a CPU float32 gives the same answers in a batch as alone; half precision does not.
    own = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    return torch.float32 if device.type == "cpu" else own


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
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else psutil.virtual_memory().available
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
def _explained(options: LoadOptions) -> Iterator[None]:
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
