"""What this machine's CPU does: tried once in a process, for a library need not use what a CPU has.

The one place where a CPU decides anything; tests put another CPU here.
"""

import logging
import time
from collections.abc import Callable
from functools import cache
from statistics import geometric_mean
from typing import Any

import torch

from engine.weights.kernels import HALF, Dense, Fbgemm, Kernel, OneDnn

logger = logging.getLogger(__name__)

# How near float16 has to come to a weight in half precision, whose own ten bits or fewer lost far more.
_NEAR = 1e-5
# What is tried for its result: a size that fills no blocks, a row and several.
_OUTPUTS, _INPUTS, _FEW = 104, 360, (1, 7, 32)
# What is timed: rows of steps, and of a prompt; how often; and by how much half precision has to be faster,
# for float32 is more exact. Measured: 0.3 to 0.5 without instructions, 1.5 to 1.7 with them.
_SIZE, _ROWS, _ROUNDS, _CLEARLY = 1024, (1, 8, 32, 128), 7, 1.2
# bitsandbytes' blocks are powers of two up to this.
_BLOCK = 256


def lay_out(weight: torch.Tensor, bias: torch.Tensor | None) -> Kernel:
    """The fastest way to multiply with a weight here: as exact as its own dtype, or as float32."""
    if multiplies(weight.dtype):
        return _fastest(weight.dtype)(weight, bias)
    wide, bias = weight.float(), None if bias is None else bias.float()
    if keeps_half() and torch.dist(wide.half().float(), wide) <= _NEAR * wide.norm():
        return Fbgemm(wide, bias)
    return _fastest(torch.float32)(wide, bias)


@cache
def multiplies(dtype: torch.dtype) -> bool:
    """Whether a dtype is best multiplied as it is; half precision is not where float32 is as fast."""
    if dtype not in HALF:
        return True
    own = _fastest(dtype)
    wide = Fbgemm if keeps_half() else _fastest(torch.float32)
    if not is_right(own, dtype):
        return False
    weight = _random(_SIZE, _SIZE) / _SIZE**0.5
    gain = _gain(own(weight.to(dtype), None), wide(weight, None))
    logger.debug("%s is multiplied %.2f times as fast as float32", dtype, gain)
    return gain > _CLEARLY


@cache
def keeps_half() -> bool:
    """Whether weights in float16 are multiplied in float32."""
    return is_right(Fbgemm, torch.float32)


@cache
def lays_out(dtype: torch.dtype) -> bool:
    """Whether oneDNN lays out weights of a dtype."""
    return is_right(OneDnn, dtype)


def holds_4_bits(outputs: int, inputs: int, packed: bool = True) -> bool:
    """Whether bitsandbytes multiplies a 4-bit layer of this size as its weights say.

    Args:
        packed: by its product for CPUs with instructions for bfloat16, on one that has them. It packs the
            weights in blocks, which not every size fills.
    """
    # A large layer fills blocks as a small one of the same remainders does.
    small = (size if size < 2 * _BLOCK else _BLOCK + size % _BLOCK for size in (outputs, inputs))
    return _holds_4_bits(*small, packed)


@cache
def _holds_4_bits(outputs: int, inputs: int, packed: bool) -> bool:
    import bitsandbytes as bnb  # Takes seconds, and need not be installed.

    layer: Any = bnb.nn.Linear4bit(inputs, outputs, bias=False, compute_dtype=torch.float32)
    layer.weight = bnb.nn.Params4bit(_random(outputs, inputs), requires_grad=False, module=layer)
    layer = layer.to("cpu").eval()
    if not packed:
        layer.support_avx512bf16_for_cpu = False
    weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return _agrees(layer, weight.float(), torch.float32, torch.finfo(torch.bfloat16).eps)


def is_right(kernel: type[Kernel], dtype: torch.dtype) -> bool:
    """Whether a kernel multiplies with a weight of a dtype here, as exactly as float32 sums are."""
    # In bfloat16, so that every dtype holds it.
    weight = _random(_OUTPUTS, _INPUTS).bfloat16().to(dtype)
    try:
        made = kernel(weight, None)
        kept = made.dense().float()
    except (RuntimeError, AttributeError):  # The library is not there, or not for this CPU.
        return False
    if torch.dist(kept, weight.float()) > _NEAR * kept.norm():
        return False
    rounded = 0 if made.dtype == torch.float32 else torch.finfo(made.dtype).eps
    return _agrees(made, weight.float(), made.dtype, rounded + _INPUTS**0.5 * torch.finfo(torch.float32).eps)


def _agrees(
    product: Callable[..., torch.Tensor], weight: torch.Tensor, dtype: torch.dtype, tolerance: float
) -> bool:
    """Whether a product with (outputs, inputs) is what it should be, of one row and of several."""
    try:
        for rows in _FEW:
            x = _random(rows, weight.shape[1]).to(dtype)
            with torch.inference_mode():
                found = product(x).double()
            expected = x.double() @ weight.double().t()
            if not torch.dist(found, expected) <= tolerance * expected.norm():  # Not where it is no number.
                return False
    except (RuntimeError, AttributeError, AssertionError):
        return False
    return True


def _fastest(dtype: torch.dtype) -> type[Kernel]:
    return OneDnn if lays_out(dtype) else Dense


def _gain(one: Kernel, other: Kernel) -> float:
    """How many times as fast the first is, over steps and a prompt.

    By one thread's own time, the quickest of several, taken in turns: what else the machine does only adds.
    """
    threads, gains = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        for rows in _ROWS:
            x = _random(rows, _SIZE)
            taken = [(_seconds(one, x), _seconds(other, x)) for _ in range(_ROUNDS)]
            own, others = map(min, zip(*taken, strict=True))
            gains.append(others / own)
    finally:
        torch.set_num_threads(threads)
    return geometric_mean(gains)


def _seconds(kernel: Kernel, x: torch.Tensor) -> float:
    x = x.to(kernel.dtype)
    start = time.thread_time()
    with torch.inference_mode():
        kernel(x)
    return time.thread_time() - start


def _random(*shape: int) -> torch.Tensor:
    """The same each time, and without a word to anybody else's generator."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), device="cpu", dtype=torch.float32)
