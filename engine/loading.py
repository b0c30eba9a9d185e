"""Load options → a model and its tokenizer, or an error that says what to do."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from huggingface_hub import errors as hub
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import cached_file

from engine import checkpoint, quantization
from engine.environment import TOKEN_VARIABLES, hub_token
from engine.errors import AdapterError, ConfigurationError, LoadError
from engine.kernels import HALF, keeps_half, multiplies
from engine.options import LoadOptions
from engine.placement import Placement, attention, place
from engine.plan import Plan

logger = logging.getLogger(__name__)

# Else transformers hands pickled weights' names, and the token, to a service that converts them.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")


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
        ConfigurationError: options that contradict each other or the checkpoint, or that this machine cannot
            follow; where the machine is the reason, nothing has been downloaded or read.
    """
    source, folder = _source(options), _folder(options)
    placement = place(options)
    implementation = attention(options, placement.device)
    quantization.config(options)  # What it refuses is refused before anything is read.
    code = {"trust_remote_code": options.trust_remote_code}
    with explained(options):
        config = transformers.AutoConfig.from_pretrained(folder, **source, **code)
        architecture = _architecture(options, config, task)
        if task == "generate":
            checkpoint.require_writer(options.model_name, config)
        dtype = _dtype(options, config, placement)
        quantized = quantization.for_checkpoint(options, config, dtype)
    tokenizer = _tokenizer(options, code)
    window = _window(config, tokenizer)
    with explained(options):
        if not getattr(config, "quantization_config", None):  # Its size does not follow from that.
            with torch.device("meta"):
                empty = architecture.from_config(config, **code)
            plan = Plan(empty, dtype, quantized, window, placement.free)
            logger.debug("memory plan of %s\n%s", options.model_name, plan)
            if not placement.spills:
                plan.require_room(options)
        with _unreported(options.model_name):
            model, report = architecture.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                device_map=placement.device_map,
                max_memory=placement.max_memory and dict(placement.max_memory),  # It is changed there.
                offload_folder=options.offload_folder,
                attn_implementation=implementation,
                quantization_config=quantized,
                use_safetensors=True if options.use_safetensors else None,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # They are refused below, by name.
                **source,
                **code,
            )
        checkpoint.require_whole(options.model_name, model, report, task)
    return Loaded(model.eval(), tokenizer, window, options)


def find_file(options: LoadOptions, name: str) -> Path | None:
    """Where a file of the model's folder or repository is on this machine; None where there is none."""
    found = cached_file(
        _folder(options),
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **_source(options),
    )
    return None if found is None else Path(found)


def _folder(options: LoadOptions) -> str:
    """Where the weights are: a folder or a hub id."""
    if options.local_path is not None and not Path(options.local_path).is_dir():
        raise ConfigurationError(f"local_path {options.local_path!r} is no folder on this machine")
    return options.local_path or options.model_name


def _source(options: LoadOptions) -> dict[str, Any]:
    # A folder has no revisions, and the one given is of `model_name`.
    return {"revision": None if options.local_path else options.revision, "token": hub_token()}


def _tokenizer(options: LoadOptions, code: dict[str, Any]) -> PreTrainedTokenizerBase:
    if options.tokenizer is None:
        with explained(options):
            return transformers.AutoTokenizer.from_pretrained(_folder(options), **_source(options), **code)
    with explained(options, "tokenizer"):
        return transformers.AutoTokenizer.from_pretrained(options.tokenizer, token=hub_token(), **code)


def _architecture(options: LoadOptions, config: PretrainedConfig, task: str) -> Any:
    if options.is_causal_lm is not None and options.is_causal_lm is bool(config.is_encoder_decoder):
        kind = "an encoder-decoder model" if config.is_encoder_decoder else "a causal language model"
        raise ConfigurationError(
            f"is_causal_lm is {str(options.is_causal_lm).lower()}, but {options.model_name} is {kind} by its "
            "configuration: leave is_causal_lm out"
        )
    if task == "embed":
        known = type(config) in transformers.MODEL_FOR_TEXT_ENCODING_MAPPING
        return transformers.AutoModelForTextEncoding if known else transformers.AutoModel
    if config.is_encoder_decoder:
        return transformers.AutoModelForSeq2SeqLM
    return transformers.AutoModelForCausalLM


@contextmanager
def _unreported(name: str) -> Iterator[None]:
    """Without transformers' table of what is missing or strange: what matters of it is an error of ours."""
    reports, table = logging.getLogger("transformers.modeling_utils"), _Table()
    reports.addFilter(table)
    try:
        yield
    except RuntimeError as error:
        if "conversion of the weights" not in str(error):
            raise
        parts = re.findall(r"^(.+?) +\| \S*CONVERSION", table.text, re.MULTILINE)
        raise LoadError(
            f"{name} has not all weights of what is put together as it loads ({', '.join(parts[:3]) or 'experts'}): "
            "take a model whose checkpoint is complete"
        ) from error
    finally:
        reports.removeFilter(table)


class _Table(logging.Filter):
    """Keeps it from the log."""

    text = ""

    def filter(self, record: logging.LogRecord) -> bool:
        message = str(record.msg)
        if "LOAD REPORT" not in message:
            return True
        self.text = message
        return False


def _dtype(options: LoadOptions, config: PretrainedConfig, placement: Placement) -> torch.dtype:
    if options.dtype != "auto":
        return getattr(torch, options.dtype)
    own = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    if placement.device.type != "cpu":
        return own
    # In layers that stay as they are, half precision without instructions is emulated, and slow.
    quantized = quantization.config(options) or getattr(config, "quantization_config", None)
    laid_out = keeps_half() and not quantized and not placement.spills
    return own if own in HALF and (laid_out or multiplies(own)) else torch.float32


def _window(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int | None:
    text = config.get_text_config(decoder=True)
    # T5 has relative positions and names its bound, if at all, in the tokenizer; "none" is 10**30 there.
    bounds = (getattr(text, "max_position_embeddings", None), tokenizer.model_max_length)
    return next((bound for bound in bounds if bound and 0 < bound < 10**9), None)


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
    MemoryError: "is too large for this machine's memory: set dtype to bfloat16, or take a smaller model",
    torch.OutOfMemoryError: "is too large for the GPU: set dtype to bfloat16, or device_map to auto",
}


@contextmanager
def explained(options: LoadOptions, option: str = "model_name") -> Iterator[None]:
    """Makes any error but our own a `LoadError` that names what was loaded, by the option that names it."""
    name = getattr(options, option)
    if option == "model_name" and options.local_path:
        name += f" ({options.local_path})"
    try:
        yield
    except AdapterError:
        raise
    except Exception as error:  # Loading runs much code that is not ours, and some of it the model's.
        cause: BaseException | None = error
        while cause:
            for kind, hint in _HINTS.items():
                if isinstance(cause, kind):
                    explanation = hint.format(revision=options.revision, option=option)
                    raise LoadError(f"{name} {explanation}") from error
            cause = cause.__cause__ or cause.__context__
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LoadError(f"{name} cannot be loaded: {reason}{_advice(reason, options)}") from error


def _advice(reason: str, options: LoadOptions) -> str:
    if "safetensors" in reason and options.use_safetensors:
        return " - Pickled weights can run code: set use_safetensors to false if you trust them"
    if "trust_remote_code" in reason:
        return " - Set trust_remote_code to true if you trust the code of that repository"
    if "ttention" in reason and options.attn_implementation:
        return " - Leave attn_implementation out to take what this machine has"
    return ""
