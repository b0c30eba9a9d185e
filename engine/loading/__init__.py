"""Load options → a model and its tokenizer, or an error that says what to do."""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from engine.environment import hub_token
from engine.errors import ConfigurationError, LoadError
from engine.loading import checkpoint, files, lora, quantization, untrusted
from engine.loading.diagnosis import explained
from engine.loading.files import find_file
from engine.loading.footprint import Plan
from engine.loading.placement import Placement, attention, place
from engine.options import LoadOptions
from engine.weights import cpu
from engine.weights.kernels import HALF_DTYPES

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
    files.folder(options)
    placement = place(options)
    attention(options, placement.device)  # What it refuses, and the next, is refused before anything is read.
    quantization.config(options)
    with explained(options):
        adapter = lora.find(options, task)
        if adapter is None:
            return _load(options, task, placement)
        base = lora.base(options, adapter)
        own = (
            _tokenizer(options, files.source(options))
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
            f"{lora.CONFIG}) cannot be had: {error}"
        ) from None
    with explained(options):
        return replace(loaded, model=lora.merged(loaded.model, options, task).eval(), options=options)


def _load(
    options: LoadOptions, task: str, placement: Placement, tokenizer: PreTrainedTokenizerBase | None = None
) -> Loaded:
    """As `load`, without an adapter beside the weights, and with another tokenizer where there is one."""
    folder, source = files.folder(options), files.source(options)
    code = {"trust_remote_code": options.trust_remote_code}
    with explained(options):
        source["subfolder"] = files.subfolder(options)
        config = transformers.AutoConfig.from_pretrained(folder, **source, **code)
        # Else passed over.
        files.read_json(options, os.path.join(source["subfolder"], "generation_config.json"))
        untrusted.drop_kernels(options.model_name, config)
        architecture = _architecture(options, config, task)
        if task == "generate":
            checkpoint.require_writer(options.model_name, config)
        dtype = _dtype(options, config, placement)
        quantized = quantization.for_checkpoint(options, config, dtype)
    tokenizer = tokenizer or _tokenizer(options, source)
    if not options.trust_remote_code:
        untrusted.note_code(options.tokenizer or options.model_name, tokenizer)
    window = _window(config, tokenizer)
    with explained(options):
        if not getattr(config, "quantization_config", None):  # Its size does not follow from that.
            with torch.device("meta"):
                empty = architecture.from_config(config, **code)
            plan = Plan(empty, dtype, quantized, window, placement.free)
            logger.debug("memory plan of %s\n%s", options.model_name, plan)
            if not placement.spills:
                plan.require_room(options)
        index = find_file(options, os.path.join(source["subfolder"], untrusted.INDEX))
        untrusted.refuse_files(options.model_name, index, not options.use_safetensors)
        with _unreported(options.model_name):
            model, report = architecture.from_pretrained(
                folder,
                config=config,
                dtype=dtype,
                device_map=placement.device_map,
                max_memory=placement.max_memory and dict(placement.max_memory),  # It is changed there.
                offload_folder=options.offload_folder,
                attn_implementation=attention(options, placement.device),
                quantization_config=quantized,
                use_safetensors=True if options.use_safetensors else None,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # They are refused below, by name.
                adapter_kwargs={
                    "subfolder": "no-adapter"
                },  # Where peft is installed, it would not be merged.
                **source,
                **code,
            )
        checkpoint.require_whole(options.model_name, model, report, task)
        quantization.settle(model)
    return Loaded(model.eval(), tokenizer, window, options)


def _tokenizer(options: LoadOptions, source: dict[str, Any]) -> PreTrainedTokenizerBase:
    code = {"trust_remote_code": options.trust_remote_code}
    if options.tokenizer is None:
        with explained(options):
            return transformers.AutoTokenizer.from_pretrained(files.folder(options), **source, **code)
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
            f"{name} has not all weights of what is put together ({', '.join(parts[:3]) or 'experts'}): "
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
    # Layers that stay as they are multiply half precision as it is, also where that is slow.
    quantized = quantization.config(options) or getattr(config, "quantization_config", None)
    prepacked = cpu.supports_fp16_storage() and not quantized and not placement.spills
    return own if own in HALF_DTYPES and (prepacked or cpu.computes_natively(own)) else torch.float32


def _window(config: PretrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int | None:
    text = config.get_text_config(decoder=True)
    # T5 has relative positions and names its bound, if at all, in the tokenizer; "none" is 10**30 there.
    bounds = (getattr(text, "max_position_embeddings", None), tokenizer.model_max_length)
    return next((bound for bound in bounds if bound and 0 < bound < 10**9), None)
