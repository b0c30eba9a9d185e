"""Options → bitsandbytes' settings, or an error that says which option cannot work and why."""

import copy
import logging
from importlib.util import find_spec
from typing import Any

import torch
from transformers import BitsAndBytesConfig, PretrainedConfig, PreTrainedModel

from engine.errors import ConfigurationError
from engine.options import LoadOptions
from engine.weights import cpu

# What works with weights of one width only, and with weights of either.
OF_8_BITS = ("llm_int8_threshold", "llm_int8_has_fp16_weight")
OF_4_BITS = ("bnb_4bit_compute_dtype", "bnb_4bit_quant_type", "bnb_4bit_use_double_quant")
OF_BOTH = ("llm_int8_skip_modules", "llm_int8_enable_fp32_cpu_offload")


def installed() -> bool:
    """Whether bitsandbytes is there; importing it takes seconds."""
    return find_spec("bitsandbytes") is not None


def config(options: LoadOptions) -> BitsAndBytesConfig | None:
    """What `from_pretrained` is to quantize with; None for weights as they are.

    Raises:
        ConfigurationError: options that contradict each other, one that nothing would come of, or one that
            this machine cannot follow.
    """
    bits = _bits(options)
    if bits is None:
        return None
    chosen = f"load_in_{bits}bit"
    if not installed():
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
        # Of each layer at each token, about a cast that it makes by itself.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return BitsAndBytesConfig(**{chosen: True}, **_knobs(options))


def for_checkpoint(
    options: LoadOptions, checkpoint: PretrainedConfig, dtype: torch.dtype
) -> BitsAndBytesConfig | None:
    """As `config`, for one checkpoint that is loaded in a dtype; None where it is so already.

    Raises:
        ConfigurationError: as `config`, or a checkpoint that is quantized in another way.
    """
    chosen = config(options)
    if chosen is None:
        return None
    own = getattr(checkpoint, "quantization_config", None)
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


def settle(model: PreTrainedModel) -> None:
    """Has 4-bit layers on a CPU multiplied by a product of bitsandbytes that can hold them.

    Raises:
        ConfigurationError: none can.
    """
    layers: Any = model.named_modules()
    for name, layer in layers:
        if type(layer).__name__ != "Linear4bit" or layer.weight.device.type != "cpu":
            continue
        size = layer.out_features, layer.in_features
        if cpu.supports_4bit(*size):
            _keep(layer)
        elif cpu.supports_4bit(*size, packed=False):
            layer.support_avx512bf16_for_cpu = False
        else:
            raise ConfigurationError(
                f"bitsandbytes cannot multiply {name} ({size[0]} × {size[1]}) in 4 bits on this CPU: "
                "set load_in_8bit instead of load_in_4bit, or leave both out"
            )


def _keep(layer: Any) -> None:
    """Has a 4-bit layer saved as it was loaded.

    Where bitsandbytes packs weights it rounds their scales, and leaves them in another order when it unpacks
    them, which every `state_dict` makes it do.
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
    for names, widths in ((OF_8_BITS, (8,)), (OF_4_BITS, (4,)), (OF_BOTH, (8, 4))):
        given = [name for name in names if getattr(options, name) is not None]
        if given and bits not in widths:
            wanted = " or ".join(f"load_in_{width}bit" for width in widths)
            raise ConfigurationError(
                f"{given[0]} does nothing without {wanted}: set {wanted}, or leave it out"
            )
    return bits


def _knobs(options: LoadOptions) -> dict[str, Any]:
    given = {name: getattr(options, name) for name in OF_8_BITS + OF_4_BITS + OF_BOTH}
    given = {name: value for name, value in given.items() if value is not None}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
