"""What this machine can do at best: measured, and turned into a limit for tokens per second."""

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch
from transformers import PretrainedConfig

# Instruction sets that decide how fast a matmul of each dtype is.
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_tile")


@dataclass(frozen=True, slots=True)
class Work:
    """What one decoding step of a decoder has to do, from its configuration.

    Attributes:
        weights: weights that a token is multiplied with, the output head's included.
        kv_width: numbers kept in the KV cache for each token.
        attention_width: multiplications of attention for each token of context.
    """

    weights: int
    kv_width: int
    attention_width: int

    @classmethod
    def of(cls, config: PretrainedConfig, weights: int) -> "Work":
        """Of a model with so many weights, whose embedding is its output head."""
        heads = config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        layers = config.num_hidden_layers
        return cls(weights, 2 * layers * kv_heads * width, 2 * layers * heads * width)


def limit(work: Work, rows: float, context: float, itemsize: int, bandwidth: float, flops: float) -> float:
    """Tokens per second that no decoding can pass: a step takes the longer of reading and computing.

    It reads every weight once and the keys and values of every row, and multiplies all rows with all weights:

        reading   = (weights + rows · context · kv_width) · itemsize / bandwidth
        computing = 2 · rows · (weights + context · attention_width) / flops

    Args:
        rows: rows that a step decodes, on average.
        context: tokens in a row's cache, on average.
        itemsize: bytes of a number.
        bandwidth: bytes per second.
        flops: floating point operations per second.
    """
    reading = (work.weights + rows * context * work.kv_width) * itemsize / bandwidth
    computing = 2 * rows * (work.weights + context * work.attention_width) / flops
    return rows / max(reading, computing)


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine's name and its two speeds.

    Attributes:
        bandwidth: bytes per second read from memory by all threads.
        matmul: floating point operations per second of a large matmul, by dtype name.
    """

    cpu: str
    cores: int
    threads: int
    instructions: tuple[str, ...]
    memory_gb: float
    torch: str
    bandwidth: float
    matmul: dict[str, float]

    @property
    def has_bfloat16(self) -> bool:
        """Whether it multiplies bfloat16 faster than float32: without instructions for it, it is emulated."""
        return self.matmul["bfloat16"] > self.matmul["float32"]

    def limit(
        self, work: Work, rows: float, context: float, dtype: torch.dtype, flops: float | None = None
    ) -> float:
        """`limit` of this machine, computing in float32 or bfloat16; `flops`: at another dtype's speed."""
        flops = flops or self.matmul[str(dtype).removeprefix("torch.")]
        return limit(work, rows, context, dtype.itemsize, self.bandwidth, flops)


def measure(matrix: int = 1024, numbers: int = 2**26) -> Machine:
    """Measures for about two seconds.

    Args:
        matrix: rows and columns of the matrices that are multiplied.
        numbers: how many float32 are read; far more than a cache holds.
    """
    read = torch.ones(numbers)
    matmul = {}
    for name in ("float32", "bfloat16"):
        square = torch.randn(matrix, matrix).to(getattr(torch, name))
        matmul[name] = 2 * matrix**3 / _best(lambda square=square: square @ square)
    model, flags = _cpu()
    return Machine(
        cpu=model,
        cores=psutil.cpu_count(logical=False) or 1,
        threads=torch.get_num_threads(),
        instructions=tuple(name for name in INSTRUCTIONS if name in flags),
        memory_gb=psutil.virtual_memory().total / 2**30,
        torch=torch.__version__,
        bandwidth=read.nbytes / _best(read.sum),
        matmul=matmul,
    )


def median(machines: Sequence[Machine]) -> Machine:
    """One machine, measured several times."""
    return replace(
        machines[0],
        bandwidth=statistics.median(machine.bandwidth for machine in machines),
        matmul={
            name: statistics.median(machine.matmul[name] for machine in machines)
            for name in machines[0].matmul
        },
    )


def _best(run: Callable[[], object]) -> float:
    """The seconds of the fastest of some runs: what else the machine does is not its limit."""
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _cpu() -> tuple[str, set[str]]:
    """Its name and its flags; the flags are known on Linux only."""
    information = Path("/proc/cpuinfo")
    if not information.exists():
        return platform.processor() or platform.machine(), set()
    lines = dict(line.split(":", 1) for line in information.read_text().splitlines() if ":" in line)
    known = {name.strip(): value.strip() for name, value in lines.items()}
    return known.get("model name", platform.machine()), set(known.get("flags", "").split())
