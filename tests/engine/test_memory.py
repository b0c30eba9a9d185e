"""Free memory is what this process may still take, and running out of it is known in every shape."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
from accelerate.utils import get_max_memory

from engine import memory
from engine.errors import LoadError
from engine.generation.kv_cache import BLOCK
from engine.loading import load
from engine.loading.placement import place
from engine.memory import MemoryUse, free_memory, is_out_of_memory
from engine.options import LoadOptions
from engine.weights.prepacking import _fits_in_memory
from tests import tiny
from tests.helpers.talk import ask

CPU = torch.device("cpu")
FREE = 10_000_000
UNLIMITED = str(2**63 - 4096)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """A machine with so many bytes free, and files below its root."""
    real = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: real._replace(available=FREE))
    monkeypatch.setattr(memory, "ROOT", tmp_path)

    def write(files: dict[str, str]) -> None:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(f"{text}\n")

    return write


def version_1(folder: str, limit: str, usage: int, cached: int = 0) -> dict[str, str]:
    """The files of a control group, version 1."""
    folder = f"sys/fs/cgroup/memory{folder}"
    stat = f"inactive_file 7\ntotal_inactive_file {cached}\ntotal_rss 5"
    return {
        f"{folder}/memory.limit_in_bytes": limit,
        f"{folder}/memory.usage_in_bytes": str(usage),
        f"{folder}/memory.stat": stat,
    }


def version_2(folder: str, limit: str, usage: int, cached: int = 0) -> dict[str, str]:
    """The files of a control group, version 2."""
    folder = f"sys/fs/cgroup{folder}"
    return {
        f"{folder}/memory.max": limit,
        f"{folder}/memory.current": str(usage),
        f"{folder}/memory.stat": f"anon 5\ninactive_file {cached}",
    }


V1, V2 = "4:memory:/pod/container\n2:cpu:/pod\n0::/", "0::/pod/container"


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("", {}, FREE),
        (V2, {}, FREE),
        (V2, version_2("/pod/container", "5000", 1000), 4000),
        (V2, version_2("/pod/container", "5000", 1000, cached=300), 4300),
        (V2, version_2("/pod/container", "max", 1000), FREE),
        (V2, version_2("/pod/container", str(10 * FREE), 1000), FREE),
        (V2, version_2("/pod/container", "5000", 6000), 0),
        (V2, version_2("/pod/container", "max", 1) | version_2("/pod", "9000", 2000), 7000),
        (V2, version_2("/pod/container", "5000", 1) | version_2("/pod", "9000", 7000), 2000),
        # In a container the root of the groups is its own, whatever the path is outside.
        (V2, version_2("", "3000", 1000), 2000),
        ("0::/", version_2("", "3000", 1000), 2000),
        ("0::/../other", version_2("", "3000", 1000), 2000),
        (V1, version_1("/pod/container", "5000", 1000), 4000),
        (V1, version_1("/pod/container", "5000", 1000, cached=300), 4300),
        (V1, version_1("/pod/container", UNLIMITED, 1000), FREE),
        (V1, version_1("/pod/container", UNLIMITED, 1) | version_1("/pod", "9000", 2000), 7000),
        (V1, version_1("", "3000", 1000), 2000),
    ],
)
def test_free_is_what_the_machine_and_every_group_of_the_process_have_left(
    machine: Callable, groups: str, files: dict, expected: int
):
    machine({"proc/self/cgroup": groups} | files)
    assert free_memory(CPU) == expected


def test_all_that_asks_for_free_memory_gets_the_same_number(machine: Callable, tiny_model: Path):
    machine({"proc/self/cgroup": "0::/"} | version_2("", "5000", 1000))
    assert _fits_in_memory(3200)
    assert not _fits_in_memory(3201)
    options = LoadOptions(model_name=str(tiny_model), device="cpu")
    assert place(options).free == {"cpu": 4000}
    with pytest.raises(LoadError, match=r"cpu has 0\.0 MiB free"):
        load(options)
    spread = place(options.model_copy(update={"device_map": "auto"}))
    assert spread.free["cpu"] == 4000
    assert spread.max_memory == {
        key: int(0.9 * (4000 if key == "cpu" else size)) for key, size in get_max_memory().items()
    }


def test_without_a_limit_of_a_group_accelerate_decides_and_limits_that_are_given_stay(
    machine: Callable, tiny_model: Path
):
    options = LoadOptions(model_name=str(tiny_model), device="cpu", device_map="auto")
    assert place(options).max_memory is None
    machine({"proc/self/cgroup": "0::/"} | version_2("", "5000", 1000))
    given = options.model_copy(update={"max_memory": {"cpu": "1GiB"}})
    assert place(given).max_memory == {"cpu": "1GiB"}


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), True),
        (OSError(errno.ENOMEM, "Nicht genügend Hauptspeicher verfügbar"), True),
        (OSError(errno.EIO, "Input/output error"), False),
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (
            RuntimeError("alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
            True,
        ),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("memory"), False),
    ],
    ids=repr,
)
def test_running_out_of_memory_is_known_in_every_shape(error: Exception, expected: bool):
    assert is_out_of_memory(error) is expected


def test_what_a_model_has_taken_is_told_with_its_kv_cache_and_the_peak():
    engine = tiny.engine("llama")
    weights = sum(weight.nbytes for weight in tiny.random_model("llama").parameters())
    assert engine.memory.weights == weights
    assert (engine.memory.kv_cache, list(engine.memory.peak)) == (0, ["cpu"])
    engine.generate([ask("Hello", max_new_tokens=4)])
    known = engine.memory
    # Keys and values of two layers and two heads of eight numbers, for at least one block of tokens.
    assert known.kv_cache % (2 * 2 * 2 * 8 * 4 * BLOCK) == 0
    assert known.kv_cache > 0
    assert known.peak["cpu"] > psutil.Process().memory_info().rss // 2
    told = str(MemoryUse(2**30, 2**20, {"cpu": 2**31}))
    assert told == "weights 1.0 GiB, KV cache up to 1.0 MiB, peak 2.0 GiB on cpu"
