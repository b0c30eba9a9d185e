"""What this machine's CPU supports, measured once per process: libraries do not report it reliably.

This is the only module that decides by CPU. Tests replace its functions to simulate another CPU.
"""

import logging
import time
from collections.abc import Callable
from functools import cache
from statistics import geometric_mean
from typing import Any

import torch

from engine.weights.int8 import Int7Kernel, Int8Kernel, changes_little
from engine.weights.kernels import HALF_DTYPES, FbgemmKernel, Kernel, OneDnnKernel, TorchKernel

logger = logging.getLogger(__name__)

# Relative error allowed where float16 stores a half-precision weight, whose own rounding is far coarser.
_STORAGE_TOLERANCE = 1e-5
# Accuracy check: a weight whose size is no multiple of a kernel's blocks, and numbers of rows.
_CHECK_OUTPUTS, _CHECK_INPUTS, _CHECK_ROWS = 104, 360, (1, 7, 32)
# Speed test: a square weight, and numbers of rows as in decoding and in a prompt. float32 is more accurate,
# so half precision has to be clearly faster. Measured: 0.3 to 0.5 without instructions, 1.5 to 1.7 with them.
_TIMED_SIZE, _TIMED_ROWS, _ROUNDS, _MIN_SPEEDUP = 1024, (1, 8, 32, 128), 7, 1.2
# Writing this number of bytes leaves nothing else in the caches of a core.
_CACHE_BYTES = 2**26
# bitsandbytes' blocks are powers of two up to this.
_LARGEST_BLOCK = 256


def best_kernel(weight: torch.Tensor, bias: torch.Tensor | None) -> Kernel:
    """Prepacks a weight for the fastest kernel here that is as accurate as its own dtype or as float32.

    Args:
        weight: (outputs, inputs).
        bias: (outputs,) or None.
    """
    if weight.dtype in HALF_DTYPES and computes_natively(weight.dtype):
        return _native_kernel(weight.dtype)(weight, bias)
    wide, bias = weight.float(), None if bias is None else bias.float()
    # A float32 weight may well come from half precision: then float16 holds it exactly.
    exact = weight.dtype == torch.float32
    tolerance = 0 if exact else _STORAGE_TOLERANCE
    fits = supports_fp16_storage() and torch.dist(wide.half().float(), wide) <= tolerance * wide.norm()
    if fits and (not exact or fp16_storage_is_faster()):
        return FbgemmKernel(wide, bias)
    return _native_kernel(torch.float32)(wide, bias)


@cache
def computes_natively(dtype: torch.dtype) -> bool:
    """Whether to compute in this dtype; False where float32 is about as fast as this half precision."""
    if dtype not in HALF_DTYPES:
        return True
    native = _native_kernel(dtype)
    in_float32 = FbgemmKernel if supports_fp16_storage() else _native_kernel(torch.float32)
    if not is_accurate(native, dtype):
        return False
    weight = _random(_TIMED_SIZE, _TIMED_SIZE) / _TIMED_SIZE**0.5
    speedup = _speedup(native(weight.to(dtype), None), in_float32(weight, None))
    logger.debug("%s is multiplied %.2f times as fast as float32", dtype, speedup)
    return speedup > _MIN_SPEEDUP


@cache
def supports_fp16_storage() -> bool:
    """Whether FBGEMM multiplies float16 weights in float32 here."""
    return is_accurate(FbgemmKernel, torch.float32)


@cache
def fp16_storage_is_faster() -> bool:
    """Whether float16 weights, read from memory, are multiplied clearly faster than float32 weights here."""
    weight = _random(_TIMED_SIZE, _TIMED_SIZE) / _TIMED_SIZE**0.5
    speedup = _speedup(FbgemmKernel(weight, None), _native_kernel(torch.float32)(weight, None), cold=True)
    logger.debug("float16 weights are multiplied %.2f times as fast as float32 ones", speedup)
    return speedup > _MIN_SPEEDUP


@cache
def int8_kernel() -> type[Int8Kernel] | None:
    """The kernel for weights in 8 bits that is exact here; None if there is none."""
    return next((kernel for kernel in (Int8Kernel, Int7Kernel) if is_exact(kernel)), None)


def int8_kernel_for(weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor) -> Int8Kernel | None:
    """Quantizes a weight to 8 bits; None where that changes what its layer computes of an input.

    Args:
        weight: (outputs, inputs).
        bias: (outputs,) or None.
        x: an input of the layer, (..., inputs).
    """
    if not computes_natively(weight.dtype):
        weight, bias = weight.float(), None if bias is None else bias.float()
    made = (int8_kernel() or Int7Kernel)(weight, bias)
    return made if changes_little(made, weight, bias, x) else None


def is_exact(kernel: type[Int8Kernel]) -> bool:
    """Whether a kernel runs here and sums its integers exactly, the largest ones, too."""
    weight = (127 * _random(_CHECK_OUTPUTS, _CHECK_INPUTS).clamp(-1, 1)).round()
    x = (kernel.largest * _random(max(_CHECK_ROWS), _CHECK_INPUTS).clamp(-1, 1)).round()
    weight[0], x[0] = 127, kernel.largest
    try:
        with torch.inference_mode():
            made = kernel(weight, None)
            return all(
                torch.allclose(made(x[:rows]), x[:rows] @ weight.t(), rtol=_STORAGE_TOLERANCE, atol=1)
                for rows in _CHECK_ROWS
            )
    except (RuntimeError, AttributeError):  # The library is missing, or does not support this CPU.
        return False


@cache
def onednn_supports(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies prepacked weights of this dtype here."""
    return is_accurate(OneDnnKernel, dtype)


def supports_4bit(outputs: int, inputs: int, packed: bool = True) -> bool:
    """Whether bitsandbytes multiplies a 4-bit layer of this size accurately here.

    Args:
        packed: tests its AVX-512 bfloat16 product, where the CPU has one. That product packs weights in
            blocks, which not every size fills.
    """
    # A large layer fills blocks just as a small one with the same remainders does.
    small = (
        size if size < 2 * _LARGEST_BLOCK else _LARGEST_BLOCK + size % _LARGEST_BLOCK
        for size in (outputs, inputs)
    )
    return _supports_4bit(*small, packed)


@cache
def _supports_4bit(outputs: int, inputs: int, packed: bool) -> bool:
    import bitsandbytes as bnb  # Takes seconds, and need not be installed.

    layer: Any = bnb.nn.Linear4bit(inputs, outputs, bias=False, compute_dtype=torch.float32)
    layer.weight = bnb.nn.Params4bit(_random(outputs, inputs), requires_grad=False, module=layer)
    layer = layer.to("cpu").eval()
    if not packed:
        layer.support_avx512bf16_for_cpu = False
    weight = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return _product_is_close(layer, weight.float(), torch.float32, torch.finfo(torch.bfloat16).eps)


def is_accurate(kernel: type[Kernel], dtype: torch.dtype) -> bool:
    """Whether a kernel runs here with weights of this dtype, and sums as accurately as float32 does."""
    # Rounded to bfloat16, so that every dtype represents it.
    weight = _random(_CHECK_OUTPUTS, _CHECK_INPUTS).bfloat16().to(dtype)
    try:
        made = kernel(weight, None)
        unpacked = made.unpack().float()
    except (RuntimeError, AttributeError):  # The library is missing, or does not support this CPU.
        return False
    if torch.dist(unpacked, weight.float()) > _STORAGE_TOLERANCE * unpacked.norm():
        return False
    rounding = 0 if made.dtype == torch.float32 else torch.finfo(made.dtype).eps
    tolerance = rounding + _CHECK_INPUTS**0.5 * torch.finfo(torch.float32).eps
    return _product_is_close(made, weight.float(), made.dtype, tolerance)


def _product_is_close(
    product: Callable[[torch.Tensor], torch.Tensor],
    weight: torch.Tensor,
    dtype: torch.dtype,
    tolerance: float,
) -> bool:
    """Whether products with a weight (outputs, inputs) match float64, for one row and for several."""
    try:
        for rows in _CHECK_ROWS:
            x = _random(rows, weight.shape[1]).to(dtype)
            with torch.inference_mode():
                found = product(x).double()
            expected = x.double() @ weight.double().t()
            if not torch.dist(found, expected) <= tolerance * expected.norm():  # False for NaN, too.
                return False
    except (RuntimeError, AttributeError, AssertionError):
        return False
    return True


def _native_kernel(dtype: torch.dtype) -> type[Kernel]:
    return OneDnnKernel if onednn_supports(dtype) else TorchKernel


def _speedup(one: Kernel, other: Kernel, cold: bool = False) -> float:
    """How many times as fast the first kernel is as the second: geometric mean over numbers of rows.

    Takes the quickest of several alternating runs, in CPU time of one thread: other load only adds time.

    Args:
        cold: empties the caches before each run, so that it reads the weight from memory.
    """
    threads, speedups = torch.get_num_threads(), []
    flushed = torch.zeros(_CACHE_BYTES if cold else 0, dtype=torch.uint8, device="cpu")
    torch.set_num_threads(1)
    try:
        for rows in _TIMED_ROWS:
            x = _random(rows, _TIMED_SIZE)
            times = [(_seconds(one, x, flushed), _seconds(other, x, flushed)) for _ in range(_ROUNDS)]
            fastest, other_fastest = map(min, zip(*times, strict=True))
            speedups.append(other_fastest / fastest)
    finally:
        torch.set_num_threads(threads)
    return geometric_mean(speedups)


def _seconds(kernel: Kernel, x: torch.Tensor, flushed: torch.Tensor) -> float:
    x = x.to(kernel.dtype)
    flushed.add_(1)
    start = time.thread_time()
    with torch.inference_mode():
        kernel(x)
    return time.thread_time() - start


def _random(*shape: int) -> torch.Tensor:
    """The same float32 numbers each time; the global generator is left alone."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), device="cpu", dtype=torch.float32)
