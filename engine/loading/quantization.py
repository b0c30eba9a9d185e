"""Quantization: what the load options ask of bitsandbytes or refuse, and bitsandbytes' kernels on a CPU."""

import copy
import logging
from importlib.util import find_spec
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PretrainedConfig, PreTrainedModel

from engine.errors import ConfigurationError
from engine.loading.placement import Placement
from engine.options import LoadOptions
from engine.weights import cpu

# Options that need 8-bit weights, 4-bit weights, or either.
OPTIONS_8BIT = ("llm_int8_threshold", "llm_int8_has_fp16_weight")
OPTIONS_4BIT = ("bnb_4bit_compute_dtype", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant")
OPTIONS_BOTH = ("llm_int8_skip_modules", "llm_int8_enable_fp32_cpu_offload")


def is_available() -> bool:
    """Whether bitsandbytes is installed. It is not imported, since that takes seconds."""
    return find_spec("bitsandbytes") is not None


def quantization_config(options: LoadOptions) -> BitsAndBytesConfig | None:
    """The `quantization_config` for `from_pretrained`; None if nothing is to be quantized.

    Raises:
        ConfigurationError: options contradict each other, one has no effect, or bitsandbytes is missing.
    """
    bits = _bits(options)
    if bits is None:
        return None
    chosen = f"load_in_{bits}bit"
    if not is_available():
        asked = chosen if getattr(options, chosen) else "use_quantization"
        raise ConfigurationError(
            f"{asked} needs bitsandbytes, which is not installed: pip install bitsandbytes, or leave it out"
        )
    if options.llm_int8_enable_fp32_cpu_offload and options.device_map is None:
        raise ConfigurationError(
            "llm_int8_enable_fp32_cpu_offload is for layers that device_map puts on the CPU: "
            'set device_map, to "auto" for one'
        )
    if bits == 8:
        # It warns of an automatic cast for each layer and token.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return BitsAndBytesConfig(**{chosen: True}, **_given_options(options))


def check_int8(options: LoadOptions, placement: Placement) -> None:
    """Refuses `quantize` where it would not be in effect.

    Raises:
        ConfigurationError: another option quantizes too, the model is not on a CPU alone, or this CPU has no
            kernel for 8 bits.
    """
    if options.quantize is None:
        return
    for name in ("load_in_8bit", "load_in_4bit", "use_quantization"):
        if name in options.model_fields_set and getattr(options, name) is not None:
            value = str(getattr(options, name)).lower()
            if value == "true" or name == "use_quantization":
                raise ConfigurationError(f"quantize is set and {name} is {value}: leave one of them out")
    if placement.device.type != "cpu" or options.device_map is not None:
        where = "device_map" if options.device_map is not None else str(placement.device)
        raise ConfigurationError(f"quantize: int8 is for a CPU, not for {where}: set load_in_8bit instead")
    if cpu.int8_kernel() is None:
        raise ConfigurationError("quantize: int8 needs FBGEMM, which does not run on this CPU: leave it out")


def config_for_checkpoint(
    options: LoadOptions, checkpoint: PretrainedConfig, dtype: torch.dtype
) -> BitsAndBytesConfig | None:
    """The `quantization_config` for one checkpoint; None if nothing is to be quantized, or it already is.

    Args:
        checkpoint: the model's configuration.
        dtype: the dtype of the other weights; the default compute dtype of 4-bit weights.

    Raises:
        ConfigurationError: options contradict each other, one has no effect, bitsandbytes is missing, or
            the checkpoint is quantized in another way.
    """
    chosen = quantization_config(options)
    own = getattr(checkpoint, "quantization_config", None)
    if own is not None and options.quantize is not None:
        method = own.get("quant_method") if isinstance(own, dict) else own.quant_method
        raise ConfigurationError(f"the checkpoint is quantized already ({method}): leave quantize out")
    if chosen is None:
        return None
    if own is not None:
        own = own if isinstance(own, dict) else own.to_dict()
        if all(bool(own.get(key)) == getattr(chosen, key) for key in ("load_in_8bit", "load_in_4bit")):
            return None
        raise ConfigurationError(
            f"the checkpoint is quantized already ({own.get('quant_method')}): leave load_in_8bit, "
            "load_in_4bit and use_quantization out"
        )
    if options.bnb_4bit_compute_dtype is None:
        chosen.bnb_4bit_compute_dtype = dtype
    return chosen


def select_4bit_kernels(model: PreTrainedModel) -> None:
    """Sets each 4-bit layer on a CPU to a bitsandbytes kernel that computes its size correctly.

    Raises:
        ConfigurationError: there is none for a layer.
    """
    layers: Any = model.named_modules()
    for name, layer in layers:
        if type(layer).__name__ != "Linear4bit" or layer.weight.device.type != "cpu":
            continue
        size = layer.out_features, layer.in_features
        if cpu.supports_4bit(*size):
            _save_as_loaded(layer)
        elif cpu.supports_4bit(*size, packed=False):
            layer.support_avx512bf16_for_cpu = False
        else:
            raise ConfigurationError(
                f"bitsandbytes cannot multiply {name} ({size[0]} × {size[1]}) in 4 bits on this CPU: "
                "set load_in_8bit instead of load_in_4bit, or leave both out"
            )


def _save_as_loaded(layer: Any) -> None:
    """Makes `state_dict` give a 4-bit layer as it was loaded.

    When bitsandbytes packs weights for the CPU it rounds their scales, and `state_dict` unpacks the weights
    but leaves the scales in another order.
    """
    from bitsandbytes import functional

    scales = copy.copy(layer.weight.quant_state)

    def unpack(layer: Any, *_: object) -> None:
        if getattr(layer.weight.quant_state, "packing_format_for_cpu", False):
            unpacked = functional._convert_weight_packed_for_cpu_inverse
            layer.weight.data = unpacked(layer.weight.data, layer.weight.quant_state)[0]
            layer.weight.quant_state = copy.copy(scales)

    layer.register_state_dict_pre_hook(unpack)


def _bits(options: LoadOptions) -> int | None:
    if options.use_quantization is False:
        return None
    if options.load_in_8bit and options.load_in_4bit:
        raise ConfigurationError("load_in_8bit and load_in_4bit are both true: set one of them")
    bits = 8 if options.load_in_8bit else 4 if options.load_in_4bit or options.use_quantization else None
    for names, widths in ((OPTIONS_8BIT, (8,)), (OPTIONS_4BIT, (4,)), (OPTIONS_BOTH, (8, 4))):
        given = [name for name in names if getattr(options, name) is not None]
        if given and bits not in widths:
            wanted = " or ".join(f"load_in_{width}bit" for width in widths)
            raise ConfigurationError(
                f"{given[0]} does nothing without {wanted}: set {wanted}, or leave it out"
            )
    return bits


def _given_options(options: LoadOptions) -> dict[str, Any]:
    given = {name: getattr(options, name) for name in OPTIONS_8BIT + OPTIONS_4BIT + OPTIONS_BOTH}
    given = {name: value for name, value in given.items() if value is not None}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
