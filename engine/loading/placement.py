"""Where the weights go and how attention is computed there, checked before anything is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from accelerate.utils import get_max_memory
from transformers import PreTrainedModel

from engine.errors import ConfigurationError
from engine.memory import free_memory
from engine.options import LoadOptions

# Accelerate's ways to spread a model by itself; any other `device_map` names devices.
STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")
FLASH = "flash_attention_2"
SHORT_NAMES = {"flash": FLASH}


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a model goes.

    Attributes:
        device_map: as `from_pretrained` takes it.
        device: what computes.
        free: free bytes on the devices that take weights, by their names.
        spills: whether weights that find no room there go to the disk.
        max_memory: what `from_pretrained` may take of each device; None leaves that to accelerate.
    """

    device_map: Any
    device: torch.device
    free: Mapping[str, int]
    spills: bool
    max_memory: Mapping[int | str, int | str] | None = None


def place(options: LoadOptions) -> Placement:
    """Where the options put a model.

    Raises:
        ConfigurationError: a device that this machine does not have, or an option that only has a meaning
            with `device_map`.
    """
    chosen = options.device_map
    if options.offload_folder and chosen is None:
        raise ConfigurationError('offload_folder is for device_map: set device_map to "auto" with it')
    for key in options.max_memory or {}:
        if key != "disk":
            find_device(key, "max_memory")
    if isinstance(chosen, str) and chosen in STRATEGIES:
        device, free = find_device(options.device), free_everywhere(options.max_memory)
        return Placement(chosen, device, free, True, options.max_memory or _limits())
    if isinstance(chosen, dict):
        names = dict.fromkeys(name for name in chosen.values() if name != "disk")
        devices = [find_device(name, "device_map") for name in names]
        first = next((device for device in devices if device.type != "cpu"), torch.device("cpu"))
        free = {str(device): free_memory(device) for device in devices}
        return Placement(chosen, first, free, "disk" in chosen.values(), options.max_memory)
    device = find_device(options.device) if chosen is None else find_device(chosen, "device_map")
    return Placement({"": device}, device, {str(device): free_memory(device)}, False, options.max_memory)


def find_device(name: str | int, option: str = "device") -> torch.device:
    """The device of a name; a number is that of a GPU.

    Raises:
        ConfigurationError: this machine does not have it.
    """
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        instead = "leave it out" if option == "max_memory" else "use auto or cpu"
        raise ConfigurationError(f"{option} {name!r} is not to be had here ({reason}): {instead}") from None
    return device


def free_everywhere(limits: dict[int | str, int | str] | None = None) -> dict[str, int]:
    """Free bytes of all devices by their names, or of those that have limits, the limits.

    Raises:
        ConfigurationError: a limit that is no size.
    """
    try:
        sizes = get_max_memory(dict(limits)) if limits else _sizes()
    except ValueError as error:
        raise ConfigurationError(f"option 'max_memory': {error}: write a size as \"20GiB\"") from None
    return {str(torch.device(key) if isinstance(key, int) else key): size for key, size in sizes.items()}


def _sizes() -> dict[int | str, int]:
    """As accelerate has them, but of the machine's memory what this process may take."""
    sizes = get_max_memory()
    return sizes | {"cpu": free_memory(torch.device("cpu"))} if "cpu" in sizes else sizes


def _limits() -> dict[int | str, int | str] | None:
    """What to spread over the devices where this process may not take all of the machine's memory."""
    sizes = _sizes()
    if sizes.get("cpu") == get_max_memory().get("cpu"):
        return None
    return {key: int(0.9 * size) for key, size in sizes.items()}  # As transformers does with its own.


def attention(options: LoadOptions, device: torch.device) -> str | None:
    """How attention is to be computed; None for the model's own way.

    Raises:
        ConfigurationError: two options that disagree, or flash attention where it cannot run.
    """
    name = options.attn_implementation
    name = SHORT_NAMES.get(name, name) if name else None
    flash = bool(name and name.startswith("flash_attention"))
    asked = f"attn_implementation {options.attn_implementation!r}" if flash else "use_flash_attention"
    if options.use_flash_attention is not None and name and options.use_flash_attention is not flash:
        raise ConfigurationError(
            f"use_flash_attention is {str(options.use_flash_attention).lower()} and attn_implementation is "
            f"{options.attn_implementation!r}: set one of them"
        )
    if options.use_flash_attention and not name:
        name, flash = FLASH, True
    missing = _missing_for(name, device) if name and flash else None
    if missing:
        raise ConfigurationError(
            f"{asked} cannot be had here: {missing}. "
            f"Leave {asked.split()[0]} out to take what this machine has"
        )
    return name


def _missing_for(flash: str, device: torch.device) -> str | None:
    if device.type == "cpu":
        return "flash attention runs on a GPU, and the model goes to the CPU"
    # transformers takes it from either package.
    if flash == FLASH and not (find_spec("flash_attn") or find_spec("kernels")):
        return "flash-attn is not installed (pip install flash-attn)"
    return None


def is_sharded(model: PreTrainedModel) -> bool:
    """Whether the weights of a model are on several devices."""
    return len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1
