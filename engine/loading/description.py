"""Reads what a folder says of its model besides the weights, for an engine that loads these elsewhere."""

import os
from dataclasses import dataclass
from typing import Literal

from transformers import GenerationConfig, PretrainedConfig, PreTrainedTokenizerBase

from engine.errors import ConfigurationError
from engine.loading import files, lora
from engine.loading.checkpoint import check_generates_text
from engine.loading.diagnosis import explain_load_errors
from engine.loading.loader import context_length_of, read_config, read_tokenizer
from engine.options import LoadOptions


@dataclass(frozen=True, slots=True)
class Description:
    """A model without its weights.

    Attributes:
        generation_config: None if the folder has none.
        context_length: the most tokens of a sequence; None if unbounded.
    """

    config: PretrainedConfig
    generation_config: GenerationConfig | None
    tokenizer: PreTrainedTokenizerBase
    context_length: int | None


def describe(options: LoadOptions, task: Literal["generate", "embed"] = "generate") -> Description:
    """Reads a model's configurations and its tokenizer.

    Raises:
        LoadError: the model is gated, missing, offline or damaged; the text says what to do.
        ConfigurationError: the model is a LoRA adapter, or an encoder-decoder model.
    """
    with explain_load_errors(options):
        adapter = lora.find_adapter(options, task)
    if adapter is not None:
        raise ConfigurationError(
            f"{options.model_name} is an adapter, which only backend: local merges into its base model: save "
            "the merged model there, and name its folder here"
        )
    hub, config = read_config(options)
    if task == "generate":
        with explain_load_errors(options):
            check_generates_text(options.model_name, config)
    if config.is_encoder_decoder:
        raise ConfigurationError(f"{options.model_name} is an encoder-decoder model: set backend to local")
    tokenizer = read_tokenizer(options, hub)
    name = os.path.join(hub["subfolder"], "generation_config.json")
    settings = files.read_json(options, name)
    return Description(
        config,
        None if settings is None else GenerationConfig.from_dict(settings),
        tokenizer,
        context_length_of(config, tokenizer),
    )
