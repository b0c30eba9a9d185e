"""LoRA adapters and their like: what was trained beside a base model's weights, merged into these."""

import warnings
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from transformers import PreTrainedModel

from engine.errors import LoadError
from engine.loading.files import find_file, folder, read_json
from engine.options import LoadOptions

CONFIG = "adapter_config.json"
_WRITERS = (None, "CAUSAL_LM", "SEQ_2_SEQ_LM")


def find(options: LoadOptions, task: str) -> dict[str, Any] | None:
    """The adapter's configuration where a folder or repository holds one; None where it does not.

    Raises:
        LoadError: it cannot be merged, for its kind, what it was trained for, or want of peft.
    """
    config = read_json(options, CONFIG)
    if config is None:
        return None
    name = options.model_name
    if not isinstance(config, dict) or not config.get("peft_type"):
        raise LoadError(f"{name} has an {CONFIG} of a kind that peft does not know: take that file away")
    if task == "generate" and config.get("task_type") not in _WRITERS:
        raise LoadError(
            f"{name} is an adapter for {config['task_type']} and writes no text: take one for CAUSAL_LM"
        )
    if find_spec("peft") is None:
        raise LoadError(
            f"{name} is an adapter ({CONFIG}), which peft merges into its base model: pip install peft"
        )
    return config


def base(options: LoadOptions, config: Mapping[str, Any]) -> LoadOptions:
    """The options of the base model: the folder itself where whole weights are beside the adapter.

    Raises:
        LoadError: it is not named.
    """
    if find_file(options, "config.json") and any(
        find_file(options, f"{weights}{index}")
        for weights in ("model.safetensors", "pytorch_model.bin")
        for index in ("", ".index.json")
    ):
        return options
    named = config.get("base_model_name_or_path")
    if not named or named == folder(options):
        raise LoadError(
            f"{options.model_name} is an adapter, and its {CONFIG} names no base model: set "
            "base_model_name_or_path there"
        )
    update = {"model_name": named, "local_path": None, "revision": config.get("revision")}
    return options.model_copy(update=update)


def merged(model: PreTrainedModel, options: LoadOptions, task: str) -> PreTrainedModel:
    """The base model with the adapter's weights in its own.

    Raises:
        LoadError: an adapter that is not for this model, or of a kind that cannot be merged.
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
    weights = _fitted(_weights(options), model)
    embedding = next((key for key in weights if key.endswith("embed_tokens.weight")), None)
    if embedding and len(weights[embedding]) != len(cast(Any, model.get_input_embeddings()).weight):
        model.resize_token_embeddings(len(weights[embedding]), mean_resizing=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of embeddings that are not saved again here, and the like.
        try:
            adapted = peft.PeftModel(model, config)
            result: Any = peft.set_peft_model_state_dict(adapted, weights)
        except (RuntimeError, ValueError) as error:  # Other shapes, or no such layers.
            raise LoadError(
                f"{name} is an adapter for another base model: {' '.join(str(error).split())}"
            ) from None
    lost = sorted(peft.get_peft_model_state_dict(adapted).keys() - weights.keys())
    if lost:
        raise LoadError(f"{name} is an adapter for another base model: it has no weights for {lost[0]}")
    # peft saves an embedding that was trained twice, and reads it once.
    twice = {
        key for key in result.unexpected_keys if key.replace(".modules_to_save", "") in weights.keys() - {key}
    }
    strange = sorted(set(result.unexpected_keys) - twice)
    if task == "embed":  # Its head is left aside.
        strange = [key for key in strange if not key.startswith("base_model.model.lm_head.")]
    if strange:
        raise LoadError(
            f"{name} is an adapter for another base model: it has weights for {strange[0]}, which this one "
            "does not have"
        )
    return adapted.merge_and_unload(safe_merge=True).requires_grad_(False)


def _weights(options: LoadOptions) -> dict[str, torch.Tensor]:
    if file := find_file(options, "adapter_model.safetensors"):
        return safetensors.torch.load_file(file)
    pickled: Path | None = find_file(options, "adapter_model.bin")
    if pickled is None:
        raise LoadError(f"{options.model_name} has no adapter_model.safetensors: download it again")
    if options.use_safetensors:
        raise LoadError(
            f"{options.model_name} has no adapter_model.safetensors - Pickled weights can run code: "
            "set use_safetensors to false if you trust them"
        )
    return torch.load(str(pickled), map_location="cpu", weights_only=True)


def _fitted(weights: dict[str, torch.Tensor], model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The weights by their names in this model, which may be without the head they were trained under."""
    outer = "base_model.model."
    inner = f"{outer}{model.base_model_prefix}."
    if hasattr(model, model.base_model_prefix):
        return weights
    return {
        outer + key.removeprefix(inner) if key.startswith(inner) else key: weight
        for key, weight in weights.items()
    }
