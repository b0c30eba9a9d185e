"""Prepacked weights give the same products as before, on every kind of CPU."""

from collections.abc import Callable

import pytest
import torch

from engine.weights import cpu
from engine.weights.cpu import best_kernel
from engine.weights.kernels import HALF_DTYPES, FbgemmKernel, OneDnnKernel, TorchKernel
from tests.helpers.fake_cpus import FAKE_CPUS

pytestmark = pytest.mark.numeric

DTYPES = [torch.float32, *HALF_DTYPES]
EPS = torch.finfo(torch.float32).eps


def weight(dtype: torch.dtype, scale: float = 0.02) -> torch.Tensor:
    torch.manual_seed(0)
    return (torch.randn(48, 40) * scale).to(dtype)


def rounding(x: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The largest difference of two float32 sums of the same products, plus the rounding of a dtype."""
    size = x.shape[-1] ** 0.5 * EPS * (x.float().abs() @ weight.float().abs().t())
    return size + (
        0 if dtype == torch.float32 else torch.finfo(dtype).eps * (x.float() @ weight.float().t()).abs()
    )


@pytest.mark.parametrize("given", FAKE_CPUS.values(), ids=FAKE_CPUS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(40,), (0, 40), (1, 40), (7, 40), (2, 3, 40)])
@pytest.mark.parametrize("biased", [True, False])
def test_a_product_is_that_of_the_weight_in_float32(
    fake_cpu: Callable, given: dict, dtype, shape, biased: bool
):
    fake_cpu(**given)
    kernel = best_kernel(weight(dtype), torch.arange(48, dtype=dtype) if biased else None)
    x = torch.randn(shape).to(kernel.dtype)
    found = kernel(x)
    expected = x.float() @ weight(dtype).float().t() + (torch.arange(48.0) if biased else 0)
    assert found.dtype == kernel.dtype
    assert found.shape == expected.shape
    rounded = 0 if kernel.dtype == torch.float32 else torch.finfo(dtype).eps
    torch.testing.assert_close(found.float(), expected, atol=1e-5, rtol=1e-5 + rounded)


@pytest.mark.parametrize("given", FAKE_CPUS.values(), ids=FAKE_CPUS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 15, 40])
def test_a_row_is_multiplied_alike_alone_and_among_others(fake_cpu: Callable, given: dict, dtype, rows: int):
    fake_cpu(**given)
    kernel = best_kernel(weight(dtype), None)
    x = torch.randn(rows, 40).to(kernel.dtype)
    alone = torch.cat([kernel(x[i : i + 1]) for i in range(rows)])
    assert ((kernel(x).float() - alone.float()).abs() <= rounding(x, weight(dtype), kernel.dtype)).all()


@pytest.mark.parametrize("given", FAKE_CPUS.values(), ids=FAKE_CPUS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_weight_is_what_it_was(fake_cpu: Callable, given: dict, dtype):
    fake_cpu(**given)
    kernel = best_kernel(weight(dtype), None)
    atol = 3e-8 if isinstance(kernel, FbgemmKernel) else 0
    torch.testing.assert_close(kernel.unpack(), weight(dtype).to(kernel.dtype), atol=atol, rtol=0)


@pytest.mark.parametrize("dtype", HALF_DTYPES)
def test_half_precision_that_is_not_multiplied_stays_half_in_memory(fake_cpu: Callable, dtype):
    fake_cpu(native=(), fp16_storage=True)
    kernel = best_kernel(weight(dtype), None)
    assert isinstance(kernel, FbgemmKernel)
    assert kernel.dtype == kernel.unpack().dtype == torch.float32


@pytest.mark.parametrize("scale", [1e-7, 1e6])
def test_what_float16_cannot_hold_is_kept_in_float32(float32_cpu, scale: float):
    given = weight(torch.bfloat16, scale)
    kernel = best_kernel(given, None)
    assert isinstance(kernel, OneDnnKernel | TorchKernel)
    assert torch.equal(kernel.unpack(), given.float())


def test_without_the_library_half_precision_is_kept_in_float32(fake_cpu: Callable):
    fake_cpu(native=(), fp16_storage=False, onednn=[torch.float32])
    assert isinstance(best_kernel(weight(torch.bfloat16), None), OneDnnKernel)


def test_without_any_library_a_weight_stays_as_it_is(fake_cpu: Callable):
    fake_cpu(native=[torch.bfloat16], fp16_storage=False, onednn=())
    for dtype in (torch.float32, torch.bfloat16):
        assert isinstance(best_kernel(weight(dtype), None), TorchKernel)


def test_float32_that_float16_holds_exactly_is_stored_so_where_that_is_faster(
    fake_cpu: Callable, monkeypatch
):
    fake_cpu(fp16_storage=True)
    halves = weight(torch.float16).float()
    for faster, expected in ((True, FbgemmKernel), (False, OneDnnKernel | TorchKernel)):
        monkeypatch.setattr(cpu, "fp16_storage_is_faster", lambda faster=faster: faster)
        kernel = best_kernel(halves, None)
        assert isinstance(kernel, expected)
        assert torch.equal(kernel.unpack(), halves)
        assert not isinstance(best_kernel(halves + 1e-5, None), FbgemmKernel)
