"""Estimates the memory a model needs from its configuration, before any weight is read."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import nn
from transformers import BitsAndBytesConfig, PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from engine.errors import LoadError
from engine.loading import quantization
from engine.loading.placement import free_bytes_by_device
from engine.memory import format_bytes
from engine.options import LoadOptions
from engine.weights import cpu

# Longer context windows are rarely filled.
LONGEST_SEQUENCE = 4096
# 4-bit weights that share a scale in bitsandbytes, and scales that share one in double quantization.
_WEIGHTS_PER_SCALE, _SCALES_PER_SCALE = 64, 256


@dataclass(frozen=True, slots=True)
class MemoryFootprint:
    """The memory that a model needs, and the memory that is free.

    Attributes:
        model: the model without weights, on the device "meta".
        dtype, quantized: the dtype and quantization its weights will have.
        context_length: the most tokens of a sequence; None if unbounded.
        free: free bytes of each device it will be on, by device name.
        int8: whether the loaded weights are quantized to 8 bits for a CPU.
    """

    model: PreTrainedModel
    dtype: torch.dtype
    quantized: BitsAndBytesConfig | None
    context_length: int | None
    free: Mapping[str, int]
    int8: bool = False

    @property
    def weights(self) -> int:
        """Bytes of the weights."""
        return weight_bytes(self.model, self.dtype, self.quantized)

    @property
    def sequence_tokens(self) -> int:
        """Tokens of the sequence that `kv_cache` is about."""
        return min(self.context_length or LONGEST_SEQUENCE, LONGEST_SEQUENCE)

    @property
    def kv_cache(self) -> int | None:
        """Bytes of the KV cache of one sequence; None if the model has none or its size is unknown."""
        in_float32 = set(self.free) == {"cpu"} and not cpu.computes_natively(self.dtype)
        dtype = torch.float32 if in_float32 else self.dtype
        size = kv_token_bytes(self.model.config, dtype) if self.model.can_generate() else None
        return None if size is None else self.sequence_tokens * size

    @property
    def precision(self) -> str:
        """The precision of the weights, as text."""
        if self.quantized:
            return "8 bits" if self.quantized.load_in_8bit else "4 bits"
        return str(self.dtype).removeprefix("torch.")

    def __str__(self) -> str:
        lines = [("weights", self.weights, f"in {self.precision}")]
        if self.int8:
            lines.append(("quantized", int8_bytes(self.model, self.dtype), "in 8 bits, once they are loaded"))
        if self.kv_cache is not None:
            lines.append(("KV cache", self.kv_cache, f"of a sequence of {self.sequence_tokens} tokens"))
        lines += [("free", size, f"on {device}") for device, size in self.free.items()]
        return "\n".join(f"{name:<15} {format_bytes(size):>11}  {note}" for name, size, note in lines)

    def check_fits(self, options: LoadOptions) -> None:
        """Refuses a model whose weights do not fit into free memory.

        Raises:
            LoadError: names settings with which the model would fit.
        """
        free = sum(self.free.values())
        if self.weights <= free:
            return
        settings = [*self._smaller_settings(free), *self._sharding_settings(free, options)]
        remedies = ", or ".join([*settings, "take a smaller model"])
        raise LoadError(
            f"{options.model_name} is too large: its weights take {format_bytes(self.weights)} in "
            f"{self.precision} and {' and '.join(self.free)} has {format_bytes(free)} free. "
            f"{remedies[0].upper()}{remedies[1:]}"
        )

    def _smaller_settings(self, free: int) -> Iterator[str]:
        """The smallest sets of dtype and quantization settings with which the weights fit."""
        dtypes = {"": self.dtype}
        if self.dtype.itemsize > torch.bfloat16.itemsize:
            dtypes["dtype to bfloat16"] = torch.bfloat16
        quantizations: dict[str, Any] = {"": self.quantized}
        if self.quantized is None and quantization.is_available():
            names = ("load_in_8bit", "load_in_4bit")
            quantizations |= {f"{name} to true": BitsAndBytesConfig(**{name: True}) for name in names}
        found = []
        for (quantize, quantized), (set_dtype, dtype) in product(quantizations.items(), dtypes.items()):
            size = weight_bytes(self.model, dtype, quantized)
            if size <= free:
                found.append(([setting for setting in (set_dtype, quantize) if setting], size))
        fewest = min((len(settings) for settings, _ in found), default=0)
        for settings, size in found:
            if len(settings) == fewest:
                yield f"set {' and '.join(settings)} ({format_bytes(size)})"

    def _sharding_settings(self, free: int, options: LoadOptions) -> Iterator[str]:
        """Settings that shard the model over devices or offload it to disk, if it fits then."""
        if options.device_map is not None or self.quantized:
            return
        room = sum(free_bytes_by_device().values())
        if self.weights <= room:
            yield f'set device_map to "auto" to spread it over all devices ({format_bytes(room)})'
        elif self.weights <= room + (disk := shutil.disk_usage(".").free):
            yield f'set device_map to "auto" and offload_folder to a folder of a disk ({format_bytes(disk)})'


def weight_bytes(
    model: PreTrainedModel, dtype: torch.dtype, quantized: BitsAndBytesConfig | None = None
) -> int:
    """Bytes of a model's weights in a dtype, with quantized layers if `quantized` is given."""
    total = sum(weight.numel() for weight in model.parameters()) * dtype.itemsize
    if quantized is None:
        return total
    kept = HfQuantizer.get_modules_to_not_convert(
        model, quantized.llm_int8_skip_modules, list(model._keep_in_fp32_modules or ())
    )
    shared = model.get_input_embeddings().weight
    for name, module in model.named_modules():
        if type(module) not in (nn.Linear, Conv1D) or module.weight is shared:
            continue
        if should_convert_module(name, kept):
            total += _quantized_bytes(module, quantized) - module.weight.numel() * dtype.itemsize
    return total


def int8_bytes(model: PreTrainedModel, dtype: torch.dtype) -> int:
    """Bytes of a model's weights in a dtype, with linear layers in 8 bits by `quantize`, tied ones, too."""
    total = weight_bytes(model, dtype)
    embedding: Any = model.get_input_embeddings()
    for module in model.modules():
        if type(module) in (nn.Linear, Conv1D):
            weight: Any = module.weight
            # A tied output layer gets a copy.
            total += weight.numel() * (1 - (0 if weight is embedding.weight else dtype.itemsize))
    return total


def _quantized_bytes(layer: Any, quantized: BitsAndBytesConfig) -> int:
    size = layer.weight.numel()
    if quantized.load_in_8bit:
        outputs = layer.nf if isinstance(layer, Conv1D) else layer.out_features
        return 2 * size if quantized.llm_int8_has_fp16_weight else size + 4 * outputs
    scales = -(-size // _WEIGHTS_PER_SCALE)
    doubly = quantized.bnb_4bit_use_double_quant
    return -(-size // 2) + (scales + 4 * -(-scales // _SCALES_PER_SCALE) if doubly else 4 * scales)


def kv_token_bytes(config: PretrainedConfig, dtype: torch.dtype) -> int | None:
    """Bytes of the KV cache per token over all layers; None if the configuration does not tell."""
    text = config.get_text_config(decoder=True)
    layers = getattr(text, "num_decoder_layers", None) or getattr(text, "num_hidden_layers", None)
    every_head = getattr(text, "num_attention_heads", None)
    heads = getattr(text, "num_key_value_heads", None) or every_head
    if not layers or not heads or not every_head:
        return None
    size = getattr(text, "head_dim", None) or text.hidden_size // every_head
    kinds = getattr(text, "layer_types", None)
    if kinds:
        layers = sum("attention" in kind and "linear" not in kind for kind in kinds)
    # An encoder-decoder also caches keys and values of the encoder's output.
    return 2 * layers * heads * size * dtype.itemsize * (2 if config.is_encoder_decoder else 1)
