"""Device placement of a model and its attention implementation, checked before any file is read."""

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

# Accelerate's strategies to shard a model; any other `device_map` names devices.
STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")
FLASH = "flash_attention_2"
ALIASES = {"flash": FLASH}


@dataclass(frozen=True, slots=True)
class Placement:
    """Which devices a model is loaded on.

    Attributes:
        device_map: the argument of `from_pretrained`.
        device: the device that computes.
        free: free bytes of each device that takes weights, by device name.
        offloads_to_disk: whether weights that do not fit on the devices are offloaded to disk.
        max_memory: the most bytes `from_pretrained` may use of each device; None leaves that to accelerate.
    """

    device_map: Any
    device: torch.device
    free: Mapping[str, int]
    offloads_to_disk: bool
    max_memory: Mapping[int | str, int | str] | None = None


def place(options: LoadOptions) -> Placement:
    """The placement that the options ask for.

    Raises:
        ConfigurationError: this machine does not have a device, or an option needs `device_map`.
    """
    chosen = options.device_map
    if options.offload_folder and chosen is None:
        raise ConfigurationError('offload_folder is for device_map: set device_map to "auto" with it')
    for key in options.max_memory or {}:
        if key != "disk":
            find_device(key, "max_memory")
    if isinstance(chosen, str) and chosen in STRATEGIES:
        device, free = find_device(options.device), free_bytes_by_device(options.max_memory)
        return Placement(chosen, device, free, True, options.max_memory or _cpu_limits())
    if isinstance(chosen, dict):
        names = dict.fromkeys(name for name in chosen.values() if name != "disk")
        devices = [find_device(name, "device_map") for name in names]
        first = next((device for device in devices if device.type != "cpu"), torch.device("cpu"))
        free = {str(device): free_memory(device) for device in devices}
        return Placement(chosen, first, free, "disk" in chosen.values(), options.max_memory)
    device = find_device(options.device) if chosen is None else find_device(chosen, "device_map")
    return Placement({"": device}, device, {str(device): free_memory(device)}, False, options.max_memory)


def find_device(name: str | int, option: str = "device") -> torch.device:
    """The device with a name; a number is the index of a GPU, "auto" the GPU if there is one.

    Args:
        option: the option to name in the error.

    Raises:
        ConfigurationError: this machine does not have the device.
    """
    if name == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        instead = "leave it out" if option == "max_memory" else "use auto or cpu"
        raise ConfigurationError(f"{option} {name!r} is not available here ({reason}): {instead}") from None
    return device


def free_bytes_by_device(limits: dict[int | str, int | str] | None = None) -> dict[str, int]:
    """Free bytes of every device, by device name; with limits, the limits of the devices that have one.

    Raises:
        ConfigurationError: a limit is no valid size.
    """
    try:
        sizes = get_max_memory(dict(limits)) if limits else _free_sizes()
    except ValueError as error:
        raise ConfigurationError(f"option 'max_memory': {error}: write a size as \"20GiB\"") from None
    return {str(torch.device(key) if isinstance(key, int) else key): size for key, size in sizes.items()}


def _free_sizes() -> dict[int | str, int]:
    """Accelerate's free bytes by device; for the CPU only what this process may use."""
    sizes = get_max_memory()
    return sizes | {"cpu": free_memory(torch.device("cpu"))} if "cpu" in sizes else sizes


def _cpu_limits() -> dict[int | str, int | str] | None:
    """Sharding limits, if this process may use less than the machine's memory; else None."""
    sizes = _free_sizes()
    if sizes.get("cpu") == get_max_memory().get("cpu"):
        return None
    return {key: int(0.9 * size) for key, size in sizes.items()}  # The share that transformers uses, too.


def attention_implementation(options: LoadOptions, device: torch.device) -> str | None:
    """The `attn_implementation` for `from_pretrained`; None leaves the choice to transformers.

    Raises:
        ConfigurationError: two options disagree, or flash attention cannot run on the device.
    """
    name = options.attn_implementation
    name = ALIASES.get(name, name) if name else None
    flash = bool(name and name.startswith("flash_attention"))
    asked = f"attn_implementation {options.attn_implementation!r}" if flash else "use_flash_attention"
    if options.use_flash_attention is not None and name and options.use_flash_attention is not flash:
        raise ConfigurationError(
            f"use_flash_attention is {str(options.use_flash_attention).lower()} and attn_implementation is "
            f"{options.attn_implementation!r}: set one of them"
        )
    if options.use_flash_attention and not name:
        name, flash = FLASH, True
    missing = _missing_requirement(name, device) if name and flash else None
    if missing:
        raise ConfigurationError(
            f"{asked} is not available here: {missing}. "
            f"Leave {asked.split()[0]} out to take what this machine has"
        )
    return name


def _missing_requirement(flash: str, device: torch.device) -> str | None:
    if device.type == "cpu":
        return "flash attention runs on a GPU, and the model goes to the CPU"
    # transformers uses either package.
    if flash == FLASH and not (find_spec("flash_attn") or find_spec("kernels")):
        return "flash-attn is not installed (pip install flash-attn)"
    return None


def is_sharded(model: PreTrainedModel) -> bool:
    """Whether the weights of a model are on several devices."""
    return len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1
