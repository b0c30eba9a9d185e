"""What a model will take of the memory, reckoned from its configuration before any weight is read."""

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
from engine.loading.placement import free_everywhere
from engine.options import LoadOptions
from engine.weights import cpu

# A longer window is rarely filled.
LONGEST_ROW = 4096
# bitsandbytes keeps a scale for so many 4-bit weights; double quantization one more for so many scales.
_WEIGHTS, _SCALES = 64, 256


@dataclass(frozen=True, slots=True)
class Plan:
    """What a model takes, and what there is.

    Attributes:
        model: with its shape and without weights (on the device "meta").
        dtype, quantized: what its weights will be loaded in.
        window: the most tokens of a sequence.
        free: free bytes on the devices that it will be on, by their names.
    """

    model: PreTrainedModel
    dtype: torch.dtype
    quantized: BitsAndBytesConfig | None
    window: int | None
    free: Mapping[str, int]

    @property
    def weights(self) -> int:
        """Bytes of the weights."""
        return weight_bytes(self.model, self.dtype, self.quantized)

    @property
    def tokens(self) -> int:
        """How long a sequence is thought to be."""
        return min(self.window or LONGEST_ROW, LONGEST_ROW)

    @property
    def row(self) -> int | None:
        """Bytes of the keys and values of one such sequence; None where there are none or it is unknown."""
        widened = set(self.free) == {"cpu"} and not cpu.computes_natively(self.dtype)
        dtype = torch.float32 if widened else self.dtype
        size = token_bytes(self.model.config, dtype) if self.model.can_generate() else None
        return None if size is None else self.tokens * size

    @property
    def precision(self) -> str:
        """What the weights are in, for people."""
        if self.quantized:
            return "8 bits" if self.quantized.load_in_8bit else "4 bits"
        return str(self.dtype).removeprefix("torch.")

    def __str__(self) -> str:
        lines = [("weights", self.weights, f"in {self.precision}")]
        if self.row is not None:
            lines.append(("keys and values", self.row, f"of a sequence of {self.tokens} tokens"))
        lines += [("free", size, f"on {device}") for device, size in self.free.items()]
        return "\n".join(f"{name:<15} {gib(size):>11}  {note}" for name, size, note in lines)

    def require_room(self, options: LoadOptions) -> None:
        """Refuses a model whose weights alone are more than what is free.

        Raises:
            LoadError: it names the settings with which this model fits here.
        """
        free = sum(self.free.values())
        if self.weights <= free:
            return
        ways = ", or ".join([*self._narrower(free), *self._wider(free, options), "take a smaller model"])
        raise LoadError(
            f"{options.model_name} is too large: its weights take {gib(self.weights)} in {self.precision} "
            f"and {' and '.join(self.free)} has {gib(free)} free. {ways[0].upper()}{ways[1:]}"
        )

    def _narrower(self, free: int) -> Iterator[str]:
        """Settings with which the weights take less and fit, as few at a time as do."""
        dtypes = {"": self.dtype}
        if self.dtype.itemsize > torch.bfloat16.itemsize:
            dtypes["dtype to bfloat16"] = torch.bfloat16
        widths: dict[str, Any] = {"": self.quantized}
        if self.quantized is None and quantization.installed():
            names = ("load_in_8bit", "load_in_4bit")
            widths |= {f"{name} to true": BitsAndBytesConfig(**{name: True}) for name in names}
        found = []
        for (width_to, width), (dtype_to, dtype) in product(widths.items(), dtypes.items()):
            size = weight_bytes(self.model, dtype, width)
            if size <= free:
                found.append(([setting for setting in (dtype_to, width_to) if setting], size))
        fewest = min((len(settings) for settings, _ in found), default=0)
        for settings, size in found:
            if len(settings) == fewest:
                yield f"set {' and '.join(settings)} ({gib(size)})"

    def _wider(self, free: int, options: LoadOptions) -> Iterator[str]:
        """Places with room for the weights as they are."""
        if options.device_map is not None or self.quantized:
            return
        room = sum(free_everywhere().values())
        if self.weights <= room:
            yield f'set device_map to "auto" to spread it over all devices ({gib(room)})'
        elif self.weights <= room + (disk := shutil.disk_usage(".").free):
            yield f'set device_map to "auto" and offload_folder to a folder of a disk ({gib(disk)})'


def weight_bytes(
    model: PreTrainedModel, dtype: torch.dtype, quantized: BitsAndBytesConfig | None = None
) -> int:
    """Bytes of a model's weights in a dtype, those of its quantized layers in theirs."""
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


def _quantized_bytes(layer: Any, quantized: BitsAndBytesConfig) -> int:
    size = layer.weight.numel()
    if quantized.load_in_8bit:
        outputs = layer.nf if isinstance(layer, Conv1D) else layer.out_features
        return 2 * size if quantized.llm_int8_has_fp16_weight else size + 4 * outputs
    scales = -(-size // _WEIGHTS)
    doubly = quantized.bnb_4bit_use_double_quant
    return -(-size // 2) + (scales + 4 * -(-scales // _SCALES) if doubly else 4 * scales)


def token_bytes(config: PretrainedConfig, dtype: torch.dtype) -> int | None:
    """Bytes of one token's keys and values in all layers; None where the configuration does not tell."""
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
    # A decoder beside an encoder also keeps what the encoder read.
    return 2 * layers * heads * size * dtype.itemsize * (2 if config.is_encoder_decoder else 1)


def gib(size: int) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**27 else f"{size / 2**20:.1f} MiB"
