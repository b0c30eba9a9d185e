"""Simplified modules: found by what they compute, with the same numbers."""

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from engine.weights.simplifying import simpler

pytestmark = pytest.mark.numeric


class Unlike(LlamaRMSNorm):
    """Another norm by the same name."""

    def forward(self, x):
        return super().forward(x - x.mean(-1, keepdim=True))


def llama_norm(dtype: torch.dtype, eps: float = 1e-5) -> LlamaRMSNorm:
    norm = LlamaRMSNorm(48, eps).to(dtype)
    nn.init.normal_(norm.weight)
    return norm


@pytest.mark.parametrize("size", [1e-4, 1.0, 300.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_rms_norm_gives_the_same_numbers(dtype: torch.dtype, size: float):
    norm = llama_norm(dtype)
    x = (torch.randn(1, 7, 48, generator=torch.Generator().manual_seed(0)) * size).to(dtype)
    with torch.no_grad():
        torch.testing.assert_close(simpler(norm)(x), norm(x), rtol=2 * torch.finfo(dtype).eps, atol=1e-7)


def test_a_norm_computes_other_dtypes_than_its_weight_as_before():
    norm = llama_norm(torch.bfloat16)
    x = torch.randn(1, 2, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(simpler(norm)(x), norm(x))


@pytest.mark.parametrize("name", ["gelu_new", "gelu_fast"])
def test_a_gelu_by_tanh_is_torchs(name: str):
    x = torch.linspace(-9, 9, 1000)
    torch.testing.assert_close(simpler(ACT2FN[name])(x), ACT2FN[name](x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "module",
    [Unlike(48), GemmaRMSNorm(48), ACT2FN["quick_gelu"], ACT2FN["relu2"], ACT2FN["silu"], nn.GELU("tanh")],
    ids=lambda module: type(module).__name__,
)
def test_other_modules_are_left_alone(module):
    assert simpler(module) is None
