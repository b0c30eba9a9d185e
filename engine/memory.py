"""Memory of a device: what is free, what a model has taken, and recognizing out-of-memory errors."""

import errno
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import psutil
import torch

ROOT = Path("/")
# The share of the free memory that one plan may take.
SHARE = 0.8
# By cgroup version: the mount, the files with limit and usage, and the prefix of cache counters.
_GROUPS = {
    1: ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    2: ("sys/fs/cgroup", "memory.max", "memory.current", ""),
}
_NO_MEMORY = ("allocate memory", "out of memory", "bad_alloc", "ALLOC_FAILED")


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """What a loaded model has taken so far.

    Attributes:
        weights: bytes of the weights, as they were loaded.
        kv_cache: bytes of the KV cache of the largest run so far; 0 where there was none.
        peak: the most bytes at a time of each device, by its name: of this process on the CPU, of torch on
            a GPU.
    """

    weights: int
    kv_cache: int
    peak: Mapping[str, int]

    def __str__(self) -> str:
        parts = [f"weights {format_bytes(self.weights)}"]
        parts += [f"KV cache up to {format_bytes(self.kv_cache)}"] if self.kv_cache else []
        parts += [f"peak {format_bytes(size)} on {device}" for device, size in self.peak.items()]
        return ", ".join(parts)


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has held at a time: of memory, or by torch of a GPU's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def format_bytes(size: int) -> str:
    """Bytes as text, in GiB or MiB."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**27 else f"{size / 2**20:.1f} MiB"


def free_memory(device: torch.device) -> int:
    """Free bytes of a device; for the CPU, limited to what the control groups of this process allow."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min([psutil.virtual_memory().available, *_left_in_groups()])


def usable_memory(device: torch.device) -> int:
    """Bytes that may be planned for: a share of the free memory, which leaves room for activations."""
    return int(SHARE * free_memory(device))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on a GPU or a CPU."""
    if isinstance(error, OSError):  # From mmap, for example.
        return error.errno == errno.ENOMEM
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        words in str(error) for words in _NO_MEMORY
    )


def _left_in_groups() -> Iterator[int]:
    """Bytes that each control group of this process, inner and outer, leaves below its limit."""
    for line in _lines("proc/self/cgroup"):
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        version = 1 if "memory" in controllers.split(",") else 2 if number == "0" else None
        if version is None:
            continue
        mount, limit_file, usage_file, prefix = _GROUPS[version]
        group = PurePosixPath(path.lstrip("/"))
        # In a container the path may not exist: its own group is mounted as the root, the last one here.
        for folder in (f"{mount}/{group}", *(f"{mount}/{outer}" for outer in group.parents)):
            limit, usage = ("".join(_lines(f"{folder}/{file}")) for file in (limit_file, usage_file))
            if limit.isdigit() and usage.isdigit():  # Version 2 writes "max" for no limit.
                counts = dict(line.partition(" ")[::2] for line in _lines(f"{folder}/memory.stat"))
                cached = sum(int(counts.get(f"{prefix}{kind}_file", 0)) for kind in ("inactive", "active"))
                yield max(0, int(limit) - max(0, int(usage) - cached))


def _lines(file: str) -> list[str]:
    try:
        return (ROOT / file).read_text().splitlines()
    except OSError:
        return []
