"""The checks of `doctor`: each checks one thing, and says how to fix it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from adapters.cli.version import installed

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ((3, 11), (3, 14))
# The least that is useful: memory for a model of 135 M parameters, disk for one of 1.7 B.
LEAST_MEMORY, LEAST_DISK = 2 * 2**30, 5 * 2**30


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check; `remedy` says how to fix a problem, None if there is none."""

    text: str
    remedy: str | None = None


def python() -> Finding:
    """Whether this Python is one that the app is tested with."""
    lowest, above = PYTHONS
    good = lowest <= sys.version_info[:2] < above
    return Finding(
        f"{platform.python_version()}, {sys.executable}", None if good else "use Python 3.11 to 3.13"
    )


def torch() -> Finding:
    """The version of torch, and the device it was built for."""
    import torch

    built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for CPUs"
    return Finding(f"{torch.__version__}, {built}, {torch.get_num_threads()} threads")


def cpu() -> Finding:
    """The CPU's instruction sets, and how it multiplies weights of each dtype."""
    import torch

    from engine.weights import cpu

    half = "float16 in memory, computed in float32 (FBGEMM)" if cpu.supports_fp16_storage() else "float32"
    ways = [f"float32: {'oneDNN' if cpu.onednn_supports(torch.float32) else 'torch'}"]
    for dtype in (torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        ways.append(f"{name}: {'native (oneDNN)' if cpu.computes_natively(dtype) else half}")
    return Finding(f"{torch.backends.cpu.get_cpu_capability()}; {'; '.join(ways)}")


def gpu() -> Finding:
    """The GPUs that torch can use."""
    import torch

    if torch.cuda.is_available():
        names = [
            f"{torch.cuda.get_device_name(i)}, {_gib(torch.cuda.mem_get_info(i)[0])} free"
            for i in range(torch.cuda.device_count())
        ]
        return Finding("; ".join(names))
    if shutil.which("nvidia-smi"):
        return Finding("a GPU that this torch cannot use", "install a torch for CUDA: pip install torch")
    return Finding("none: the CPU answers")


def memory() -> Finding:
    """Free memory of this machine, or within this process's limit."""
    import torch

    from engine.memory import free_memory

    free = free_memory(torch.device("cpu"))
    return Finding(
        f"{_gib(free)} free", None if free >= LEAST_MEMORY else "end other programs, or take a small model"
    )


def disk() -> Finding:
    """Where the hub library stores downloads, and the free disk space there."""
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = Path(HF_HUB_CACHE)
    there = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(there).free
    text = f"{_gib(free)} free in {cache}"
    if not os.access(there, os.W_OK):
        return Finding(f"{text}, which cannot be written", "set HF_HOME to a folder of yours")
    return Finding(text, None if free >= LEAST_DISK else "make room, or set HF_HOME to a larger disk")


def token() -> Finding:
    """Whether a hub token is set."""
    from huggingface_hub import get_token

    from engine.environment import hub_token

    if hub_token() or get_token():
        return Finding("present")
    return Finding("none: enough for all models but gated ones, which need HF_TOKEN")


def platform_login() -> Finding:
    """Whether somebody is logged in to Dataloop, and whether it answers."""
    if installed("dtlpy") is None:
        return Finding("dtlpy is not installed", "pip install dtlpy")
    from adapters.platform.login import state

    found = state()
    text = f"{found.environment}: {'logged in' if found.logged_in else 'not logged in'}, {found.reach}"
    if not found.logged_in:
        return Finding(f"{text}; only publishing needs it: dlp login")
    return Finding(text, None if found.reachable else "check the network and the proxy, then try again")


def packages() -> Finding:
    """Whether the packages that the app names are here, in the versions that were tested."""
    pinned = dict(_pinned(ROOT / "constraints.txt"))
    found = {name: installed(name) for name in _needed(ROOT / "requirements.txt")}
    wrong = [f"{name} is missing" for name, version in found.items() if version is None]
    wrong += [
        f"{name} {version} (tested: {pinned[_plain(name)]})"
        for name, version in found.items()
        if version and pinned.get(_plain(name), version) not in (version, version.partition("+")[0])
    ]
    if wrong:
        return Finding(", ".join(wrong), "pip install -r requirements.txt -c constraints.txt")
    return Finding(f"all {len(found)} packages as tested")


CHECKS: dict[str, Callable[[], Finding]] = {
    "Python": python,
    "torch": torch,
    "CPU": cpu,
    "GPU": gpu,
    "memory": memory,
    "disk": disk,
    "hub token": token,
    "Dataloop": platform_login,
    "packages": packages,
}


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _pinned(file: Path) -> Iterator[tuple[str, str]]:
    for line in file.read_text(encoding="utf-8").splitlines():
        name, pinned, version = line.partition("==")
        if pinned:
            yield _plain(name), version.strip()


def _needed(file: Path) -> Iterator[str]:
    for line in file.read_text(encoding="utf-8").splitlines():
        if found := re.match(r"[\w.-]+", line):
            yield found[0]


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
