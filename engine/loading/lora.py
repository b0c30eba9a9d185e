"""Merges LoRA and similar PEFT adapters into the weights of their base model."""

import warnings
from collections.abc import Collection, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from transformers import PreTrainedModel

from engine.errors import LoadError
from engine.loading.files import find_file, folder_or_hub_id, read_json
from engine.loading.untrusted import PICKLED_HINT
from engine.options import LoadOptions

CONFIG = "adapter_config.json"
_GENERATIVE_TASKS = (None, "CAUSAL_LM", "SEQ_2_SEQ_LM")


def find_adapter(options: LoadOptions, task: str) -> dict[str, Any] | None:
    """The adapter configuration of a folder or repository; None if it holds no adapter.

    Raises:
        LoadError: the adapter has an unknown type or another task, or peft is not installed.
    """
    config = read_json(options, CONFIG)
    if config is None:
        return None
    name = options.model_name
    if not isinstance(config, dict) or not config.get("peft_type"):
        raise LoadError(f"{name} has an {CONFIG} of a kind that peft does not know: take that file away")
    if task == "generate" and config.get("task_type") not in _GENERATIVE_TASKS:
        raise LoadError(
            f"{name} is an adapter for {config['task_type']} and writes no text: take one for CAUSAL_LM"
        )
    if find_spec("peft") is None:
        raise LoadError(
            f"{name} is an adapter ({CONFIG}), which peft merges into its base model: pip install peft"
        )
    return config


def base_options(options: LoadOptions, config: Mapping[str, Any]) -> LoadOptions:
    """The load options of the base model: `options` itself if full weights lie beside the adapter.

    Raises:
        LoadError: the adapter names no base model.
    """
    if find_file(options, "config.json") and any(
        find_file(options, f"{weights}{index}")
        for weights in ("model.safetensors", "pytorch_model.bin")
        for index in ("", ".index.json")
    ):
        return options
    named = config.get("base_model_name_or_path")
    if not named or named == folder_or_hub_id(options):
        raise LoadError(
            f"{options.model_name} is an adapter, and its {CONFIG} names no base model: set "
            "base_model_name_or_path there"
        )
    update = {"model_name": named, "local_path": None, "revision": config.get("revision")}
    return options.model_copy(update=update)


def merge_adapter(model: PreTrainedModel, options: LoadOptions, task: str) -> PreTrainedModel:
    """Merges the adapter that `options` name into its base model.

    Args:
        model: the base model.
        task: "generate" or "embed", which ignores adapter weights for the head.

    Raises:
        LoadError: the adapter is for another model, cannot be merged, or has no readable weights.
    """
    import peft

    name = options.model_name
    if any(weight.device.type == "meta" for weight in model.parameters()):
        raise LoadError(
            f"{name} is an adapter, and part of its base model is on the disk: give it more memory"
        )
    where = find_file(options, CONFIG)
    assert where is not None
    config = peft.PeftConfig.from_pretrained(str(where.parent))
    if config.is_prompt_learning or config.is_adaption_prompt:
        raise LoadError(
            f"{name} is an adapter of the kind {config.peft_type.value}, which cannot be merged into "
            "weights: take a LoRA adapter"
        )
    config.inference_mode = True
    weights = _renamed_for(_weights(options), model)
    embedding = next((key for key in weights if key.endswith("embed_tokens.weight")), None)
    if embedding and len(weights[embedding]) != len(cast(Any, model.get_input_embeddings()).weight):
        model.resize_token_embeddings(len(weights[embedding]), mean_resizing=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # About saving embeddings, for example.
        try:
            adapted = peft.PeftModel(model, config)
            result: Any = peft.set_peft_model_state_dict(adapted, weights)
        except (RuntimeError, ValueError) as error:  # Other shapes or layers.
            raise LoadError(
                f"{name} is an adapter for another base model: {' '.join(str(error).split())}"
            ) from None
    missing = sorted(peft.get_peft_model_state_dict(adapted).keys() - weights.keys())
    _check_keys(name, task, missing, result.unexpected_keys, weights)
    return adapted.merge_and_unload(safe_merge=True).requires_grad_(False)


def _check_keys(
    name: str, task: str, missing: list[str], unexpected: Collection[str], weights: Collection[str]
) -> None:
    """Refuses an adapter whose weights are not those that the base model has places for.

    Args:
        missing: the keys that the adapter lacks.
        unexpected: the keys that the base model does not have.
        weights: all keys of the adapter.

    Raises:
        LoadError: names a weight.
    """
    if missing:
        raise LoadError(f"{name} is an adapter for another base model: it has no weights for {missing[0]}")
    # peft saves a trained embedding under two names and loads one of them.
    foreign = sorted(
        key for key in unexpected if key.replace(".modules_to_save", "") not in set(weights) - {key}
    )
    if task == "embed":  # It has no head.
        foreign = [key for key in foreign if not key.startswith("base_model.model.lm_head.")]
    if foreign:
        raise LoadError(
            f"{name} is an adapter for another base model: it has weights for {foreign[0]}, which this one "
            "does not have"
        )


def _weights(options: LoadOptions) -> dict[str, torch.Tensor]:
    if file := find_file(options, "adapter_model.safetensors"):
        return safetensors.torch.load_file(file)
    pickled: Path | None = find_file(options, "adapter_model.bin")
    if pickled is None:
        raise LoadError(f"{options.model_name} has no adapter_model.safetensors: download it again")
    if options.use_safetensors:
        raise LoadError(f"{options.model_name} has no adapter_model.safetensors - {PICKLED_HINT}")
    return torch.load(str(pickled), map_location="cpu", weights_only=True)


def _renamed_for(weights: dict[str, torch.Tensor], model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The weights renamed for this model, which may lack the head that the adapter was trained with."""
    outer = "base_model.model."
    inner = f"{outer}{model.base_model_prefix}."
    if hasattr(model, model.base_model_prefix):
        return weights
    return {
        outer + key.removeprefix(inner) if key.startswith(inner) else key: weight
        for key, weight in weights.items()
    }
