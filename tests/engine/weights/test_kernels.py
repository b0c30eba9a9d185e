"""Weights that are laid out once multiply as they did before, on every kind of CPU."""

from collections.abc import Callable

import pytest
import torch

from engine.weights.cpu import lay_out
from engine.weights.kernels import HALF, Dense, Fbgemm, OneDnn
from tests.helpers.cpus import CPUS

pytestmark = pytest.mark.numeric

DTYPES = [torch.float32, *HALF]
EPS = torch.finfo(torch.float32).eps


def weight(dtype: torch.dtype, scale: float = 0.02) -> torch.Tensor:
    torch.manual_seed(0)
    return (torch.randn(48, 40) * scale).to(dtype)


def rounding(x: torch.Tensor, weight: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """How far float32 sums of so many products may be from each other, and as far as a dtype rounds them."""
    size = x.shape[-1] ** 0.5 * EPS * (x.float().abs() @ weight.float().abs().t())
    return size + (
        0 if dtype == torch.float32 else torch.finfo(dtype).eps * (x.float() @ weight.float().t()).abs()
    )


@pytest.mark.parametrize("given", CPUS.values(), ids=CPUS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(40,), (0, 40), (1, 40), (7, 40), (2, 3, 40)])
@pytest.mark.parametrize("biased", [True, False])
def test_a_product_is_that_of_the_weight_in_float32(cpu: Callable, given: dict, dtype, shape, biased: bool):
    cpu(**given)
    kernel = lay_out(weight(dtype), torch.arange(48, dtype=dtype) if biased else None)
    x = torch.randn(shape).to(kernel.dtype)
    found = kernel(x)
    expected = x.float() @ weight(dtype).float().t() + (torch.arange(48.0) if biased else 0)
    assert found.dtype == kernel.dtype
    assert found.shape == expected.shape
    rounded = 0 if kernel.dtype == torch.float32 else torch.finfo(dtype).eps
    torch.testing.assert_close(found.float(), expected, atol=1e-5, rtol=1e-5 + rounded)


@pytest.mark.parametrize("given", CPUS.values(), ids=CPUS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 15, 40])
def test_a_row_is_multiplied_alike_alone_and_among_others(cpu: Callable, given: dict, dtype, rows: int):
    cpu(**given)
    kernel = lay_out(weight(dtype), None)
    x = torch.randn(rows, 40).to(kernel.dtype)
    alone = torch.cat([kernel(x[i : i + 1]) for i in range(rows)])
    assert ((kernel(x).float() - alone.float()).abs() <= rounding(x, weight(dtype), kernel.dtype)).all()


@pytest.mark.parametrize("given", CPUS.values(), ids=CPUS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_weight_is_what_it_was(cpu: Callable, given: dict, dtype):
    cpu(**given)
    kernel = lay_out(weight(dtype), None)
    atol = 3e-8 if isinstance(kernel, Fbgemm) else 0
    torch.testing.assert_close(kernel.dense(), weight(dtype).to(kernel.dtype), atol=atol, rtol=0)


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_that_is_not_multiplied_stays_half_in_memory(cpu: Callable, dtype):
    cpu(multiplies=(), keeps_half=True)
    kernel = lay_out(weight(dtype), None)
    assert isinstance(kernel, Fbgemm)
    assert kernel.dtype == kernel.dense().dtype == torch.float32


@pytest.mark.parametrize("scale", [1e-7, 1e6])
def test_what_float16_cannot_hold_is_kept_in_float32(no_instructions, scale: float):
    given = weight(torch.bfloat16, scale)
    kernel = lay_out(given, None)
    assert isinstance(kernel, OneDnn | Dense)
    assert torch.equal(kernel.dense(), given.float())


def test_without_the_library_half_precision_is_kept_in_float32(cpu: Callable):
    cpu(multiplies=(), keeps_half=False, lays_out=[torch.float32])
    assert isinstance(lay_out(weight(torch.bfloat16), None), OneDnn)


def test_without_any_library_a_weight_stays_as_it_is(cpu: Callable):
    cpu(multiplies=[torch.bfloat16], keeps_half=False, lays_out=())
    for dtype in (torch.float32, torch.bfloat16):
        assert isinstance(lay_out(weight(dtype), None), Dense)
