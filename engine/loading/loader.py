"""Loads a model and its tokenizer, or raises an error that says what to do."""

import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import transformers
from transformers import BitsAndBytesConfig, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from engine.environment import hub_token
from engine.errors import ConfigurationError, LoadError
from engine.loading import checkpoint, files, lora, quantization, untrusted
from engine.loading.diagnosis import explain_load_errors
from engine.loading.files import find_file
from engine.loading.footprint import MemoryFootprint
from engine.loading.placement import Placement, attention_implementation, place
from engine.options import LoadOptions
from engine.weights import cpu
from engine.weights.kernels import HALF_DTYPES

logger = logging.getLogger(__name__)

# Otherwise transformers sends the names of pickled weights, and the token, to a conversion service.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A loaded model with its tokenizer.

    Attributes:
        model: in evaluation mode.
        context_length: the most tokens of a sequence, for prompt and answer together (for each of them in an
            encoder-decoder model); None if unbounded.
        options: the options it was loaded with; None if it was not loaded from files.
        classifies: whether it scores or labels texts instead of writing them: it has a classification head,
            or its folder makes a score of its logits.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    context_length: int | None
    options: LoadOptions | None = None
    classifies: bool = False


def load(options: LoadOptions, task: Literal["generate", "embed"] = "generate") -> Loaded:
    """Loads a model from the hub or a local folder.

    Args:
        task: "generate" loads a model that writes text, or one with a classification head where the
            configuration names such a class. "embed" also loads encoders, loads a language model without its
            head, and only the encoder of an encoder-decoder model where transformers has a class for it.

    Raises:
        LoadError: the model is gated, missing, offline, pickled, damaged or too large; the text says what to
            do.
        ConfigurationError: options contradict each other or the checkpoint, or this machine does not support
            one. In the latter case nothing has been downloaded or read.
    """
    _hide_bars_off_a_terminal()
    files.folder_or_hub_id(options)
    placement = place(options)
    attention_implementation(options, placement.device)  # This and the next raise before any file is read.
    quantization.quantization_config(options)
    quantization.check_int8(options, placement)
    with explain_load_errors(options):
        adapter = lora.find_adapter(options, task)
        if adapter is None:
            return _load(options, task, placement)
        base = lora.base_options(options, adapter)
        own = (
            read_tokenizer(options, files.hub_arguments(options))
            if find_file(options, "tokenizer_config.json")
            else None
        )
    try:
        loaded = _load(base, task, placement, own)
    except LoadError as error:
        if base is options:
            raise
        raise LoadError(
            f"{options.model_name} is an adapter, and its base model (base_model_name_or_path in "
            f"{lora.CONFIG}) is not available: {error}"
        ) from None
    with explain_load_errors(options):
        return replace(loaded, model=lora.merge_adapter(loaded.model, options, task).eval(), options=options)


def _load(
    options: LoadOptions, task: str, placement: Placement, tokenizer: PreTrainedTokenizerBase | None = None
) -> Loaded:
    """Loads a model that is no adapter; `tokenizer` replaces its own."""
    folder, made = files.folder_or_hub_id(options), _configure(options, task, placement, tokenizer)
    if not options.trust_remote_code and isinstance(options.tokenizer, str | None):
        untrusted.warn_of_tokenizer_code(options.tokenizer or options.model_name, made.tokenizer)
    with explain_load_errors(options):
        footprint = _footprint(options, placement, made)
        if footprint is not None:
            logger.debug("memory footprint of %s\n%s", options.model_name, footprint)
            if not placement.offloads_to_disk:
                footprint.check_fits(options)
        index = find_file(options, os.path.join(made.hub["subfolder"], untrusted.INDEX))
        untrusted.check_weight_index(options.model_name, index, not options.use_safetensors)
        with _without_load_report(options.model_name):
            model, report = made.auto_class.from_pretrained(
                folder,
                config=made.config,
                dtype=made.dtype,
                device_map=placement.device_map,
                max_memory=placement.max_memory and dict(placement.max_memory),  # transformers changes it.
                offload_folder=options.offload_folder,
                attn_implementation=attention_implementation(options, placement.device),
                quantization_config=made.quantized,
                use_safetensors=True if options.use_safetensors else None,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # Checked below, by name.
                # Otherwise peft adds an adapter beside the weights unmerged.
                adapter_kwargs={"subfolder": "no-adapter", **files.cache_only(folder)},
                trust_remote_code=options.trust_remote_code,
                **made.hub,
            )
        checkpoint.check_complete(options.model_name, model, report, made.task)
        if model.device.type == "meta":  # Then each pass would read all weights into memory at once.
            raise LoadError(
                f"{options.model_name} cannot be run from the disk alone: no device has room for its first "
                "layer (by device_map, max_memory or the memory that is free): give one more room, or take a "
                "smaller model"
            )
        quantization.select_4bit_kernels(model)
    return Loaded(model.eval(), made.tokenizer, made.context_length, options, made.classifies)


def _hide_bars_off_a_terminal() -> None:
    notebook = "ipykernel" in sys.modules
    if not notebook and not (sys.stderr and sys.stderr.isatty()):
        transformers.utils.logging.disable_progress_bar()


def memory_footprint(
    options: LoadOptions, task: Literal["generate", "embed"] = "generate"
) -> MemoryFootprint | None:
    """Estimates the memory that a model takes, from its configuration and tokenizer; reads no weights.

    Returns:
        None for a checkpoint that is quantized already: its size cannot be estimated.

    Raises:
        LoadError: as `load`; or the model is an adapter, whose base model takes the memory.
        ConfigurationError: as `load`.
    """
    placement = place(options)
    quantization.check_int8(options, placement)
    with explain_load_errors(options):
        if lora.find_adapter(options, task) is not None:
            raise LoadError(f"{options.model_name} is an adapter: its base model takes the memory, show that")
    made = _configure(options, task, placement)
    with explain_load_errors(options):
        return _footprint(options, placement, made)


@dataclass(frozen=True, slots=True)
class _Configured:
    """What is known of a model before its weights are read.

    Attributes:
        task: "generate", "embed", or "classify" for a model with a classification head.
        auto_class: the class of transformers that loads it.
        quantized: the quantization of the weights; None if they are not quantized.
        hub: keyword arguments for the hub library, and the subfolder.
    """

    config: PretrainedConfig
    task: str
    auto_class: Any
    dtype: torch.dtype
    quantized: BitsAndBytesConfig | None
    tokenizer: PreTrainedTokenizerBase
    context_length: int | None
    hub: dict[str, Any]
    classifies: bool


def _configure(
    options: LoadOptions, task: str, placement: Placement, tokenizer: PreTrainedTokenizerBase | None = None
) -> _Configured:
    """Reads a model's configuration and, unless one is given, its tokenizer."""
    hub, config = read_config(options)
    with explain_load_errors(options):
        if task == "generate" and checkpoint.has_classification_head(config):
            task = "classify"
        auto_class = _auto_class(options, config, task)
        classifies = task == "classify"
        if task == "generate":
            checkpoint.check_generates_text(options.model_name, config)
            modules = files.read_json(options, "modules.json") or ()
            classifies = any(files.is_logit_score(module["type"]) for module in modules)
        dtype = _dtype(options, config, placement)
        quantized = quantization.config_for_checkpoint(options, config, dtype)
    tokenizer = tokenizer or read_tokenizer(options, hub)
    context_length = context_length_of(config, tokenizer)
    return _Configured(config, task, auto_class, dtype, quantized, tokenizer, context_length, hub, classifies)


def read_config(options: LoadOptions) -> tuple[dict[str, Any], PretrainedConfig]:
    """The keyword arguments for the hub library, with the subfolder, and the model's configuration."""
    hub = files.hub_arguments(options)
    with explain_load_errors(options):
        hub["subfolder"] = files.transformer_subfolder(options)
        config = transformers.AutoConfig.from_pretrained(
            files.folder_or_hub_id(options), trust_remote_code=options.trust_remote_code, **hub
        )
        # transformers ignores this file if it is no valid JSON.
        files.read_json(options, os.path.join(hub["subfolder"], "generation_config.json"))
        untrusted.drop_hub_attention(options.model_name, config)
    return hub, config


def _footprint(options: LoadOptions, placement: Placement, made: _Configured) -> MemoryFootprint | None:
    if getattr(made.config, "quantization_config", None):  # Then the size cannot be estimated.
        return None
    with torch.device("meta"):
        empty = made.auto_class.from_config(made.config, trust_remote_code=options.trust_remote_code)
    int8 = options.quantize is not None
    return MemoryFootprint(empty, made.dtype, made.quantized, made.context_length, placement.free, int8)


def read_tokenizer(options: LoadOptions, hub: dict[str, Any]) -> PreTrainedTokenizerBase:
    """The tokenizer that the option names, else the model's own; `hub` is what `read_config` returns."""
    code = {"trust_remote_code": options.trust_remote_code}
    if options.tokenizer is None:
        with explain_load_errors(options):
            return transformers.AutoTokenizer.from_pretrained(files.folder_or_hub_id(options), **hub, **code)
    if not isinstance(options.tokenizer, str):
        return options.tokenizer
    with explain_load_errors(options, "tokenizer"):
        return transformers.AutoTokenizer.from_pretrained(
            options.tokenizer, token=hub_token(), **files.cache_only(options.tokenizer), **code
        )


def _auto_class(options: LoadOptions, config: PretrainedConfig, task: str) -> Any:
    if options.is_causal_lm is not None and options.is_causal_lm is bool(config.is_encoder_decoder):
        kind = "an encoder-decoder model" if config.is_encoder_decoder else "a causal language model"
        raise ConfigurationError(
            f"is_causal_lm is {str(options.is_causal_lm).lower()}, but {options.model_name} is {kind} by its "
            "configuration: leave is_causal_lm out"
        )
    if task == "embed":
        known = type(config) in transformers.MODEL_FOR_TEXT_ENCODING_MAPPING
        return transformers.AutoModelForTextEncoding if known else transformers.AutoModel
    if task == "classify":
        return transformers.AutoModelForSequenceClassification
    if config.is_encoder_decoder:
        return transformers.AutoModelForSeq2SeqLM
    return transformers.AutoModelForCausalLM


@contextmanager
def _without_load_report(name: str) -> Iterator[None]:
    """Hides transformers' load report: `checkpoint.check_complete` raises what matters of it."""
    reports, table = logging.getLogger("transformers.modeling_utils"), _LoadReportFilter()
    reports.addFilter(table)
    try:
        yield
    except RuntimeError as error:
        if "conversion of the weights" not in str(error):
            raise
        parts = re.findall(r"^(.+?) +\| \S*CONVERSION", table.text, re.MULTILINE)
        raise LoadError(
            f"{name} lacks weights that have to be merged ({', '.join(parts[:3]) or 'experts'}): "
            "take a model whose checkpoint is complete"
        ) from error
    finally:
        reports.removeFilter(table)


class _LoadReportFilter(logging.Filter):
    """Drops the load report from the log, and keeps its text."""

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
    # Layers that are not prepacked compute in their own half precision, however slow.
    quantized = quantization.quantization_config(options) or getattr(config, "quantization_config", None)
    prepacked = cpu.supports_fp16_storage() and not quantized and not placement.offloads_to_disk
    return own if own in HALF_DTYPES and (prepacked or cpu.computes_natively(own)) else torch.float32


def context_length_of(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The most tokens of a sequence; None if unbounded."""
    text = config.get_text_config(decoder=True)
    # T5 has relative positions; its bound, if any, is in the tokenizer, where 10**30 means none.
    bounds = (getattr(text, "max_position_embeddings", None), tokenizer.model_max_length)
    return next((bound for bound in bounds if bound and 0 < bound < 10**9), None)
