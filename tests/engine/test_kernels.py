"""Weights that are laid out once multiply as they did before."""

import pytest
import torch

from engine import kernels
from engine.kernels import Fbgemm, OneDnn, keeps_half, lay_out, multiplies

half = pytest.mark.skipif(not keeps_half(), reason="this machine multiplies no float16 weights")


def weight(dtype: torch.dtype, scale: float = 0.02) -> torch.Tensor:
    torch.manual_seed(0)
    return (torch.randn(48, 40) * scale).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(40,), (0, 40), (1, 40), (7, 40), (2, 3, 40)])
@pytest.mark.parametrize("biased", [True, False])
def test_a_product_is_that_of_the_weight_in_float32(no_instructions, dtype, shape, biased: bool):
    given = weight(dtype)
    bias = torch.arange(48, dtype=dtype) if biased else None
    x = torch.randn(shape)
    expected = torch.nn.functional.linear(x, given.float(), None if bias is None else bias.float())
    torch.testing.assert_close(lay_out(given, bias)(x), expected, atol=1e-5, rtol=1e-5)


@half
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_without_instructions_stays_half_in_memory(no_instructions, dtype):
    kernel = lay_out(weight(dtype), None)
    assert isinstance(kernel, Fbgemm)
    assert kernel.dtype == kernel.dense().dtype == torch.float32
    torch.testing.assert_close(kernel.dense(), weight(dtype).float(), atol=3e-8, rtol=0)


@half
@pytest.mark.parametrize("rows", [1, 15, 40])
def test_a_row_gives_the_same_bits_alone_and_among_others(no_instructions, rows: int):
    kernel, x = lay_out(weight(torch.bfloat16), None), torch.randn(rows, 40)
    assert all(torch.equal(kernel(x[i : i + 1]), kernel(x)[i : i + 1]) for i in range(rows))


@pytest.mark.parametrize("scale", [1e-7, 1e6])
def test_what_float16_cannot_hold_is_kept_in_float32(no_instructions, scale: float):
    given = weight(torch.bfloat16, scale)
    kernel = lay_out(given, None)
    assert isinstance(kernel, OneDnn)
    assert torch.equal(kernel.dense(), given.float())


def test_a_machine_without_the_library_keeps_half_precision_in_float32(no_instructions, monkeypatch):
    monkeypatch.setattr(kernels, "keeps_half", lambda: False)
    assert isinstance(lay_out(weight(torch.bfloat16), None), OneDnn)


def test_float32_keeps_its_bits():
    kernel = lay_out(weight(torch.float32), None)
    assert torch.equal(kernel.dense(), weight(torch.float32))


@pytest.mark.parametrize(
    ("dtype", "capability", "expected"),
    [
        (torch.float32, {}, True),
        (torch.bfloat16, {}, False),
        (torch.bfloat16, {"amx_bf16": True}, True),
        (torch.bfloat16, {"amx_fp16": True}, False),
        (torch.float16, {"amx_bf16": True}, False),
        (torch.float16, {"amx_fp16": True}, True),
    ],
)
def test_the_instructions_of_the_cpu_are_asked_for(monkeypatch, dtype, capability: dict, expected: bool):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capability)
    assert multiplies(dtype) is expected
