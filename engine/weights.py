"""Weights laid out in memory as this machine multiplies them fastest; their values stay what they are.

Libraries for matrix products are made for many rows. For the few that are live in a generation, a CPU takes a
third of the time where float32 weights lie input by input, and less where bfloat16 weights lie in the blocks
that its matrix instructions read.
"""

import functools
import logging
from collections.abc import Iterator

import psutil
import torch
from torch import nn
from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

# Rows from which on the output layer is faster with the vocabulary as the rows of the product.
_MANY = 4


def multiplies(dtype: torch.dtype) -> bool:
    """Whether this machine's CPU has matrix instructions for a dtype; without, half precision is emulated."""
    if dtype == torch.float32:
        return True
    wanted = {torch.bfloat16: "amx_bf16", torch.float16: "amx_fp16"}[dtype]
    return bool(torch.cpu.get_capabilities().get(wanted))


def lay_out(model: PreTrainedModel) -> None:
    """Lays out a model's weights anew where that is faster: on a CPU, in the layers that are plain matrices.

    Half precision that the CPU has no instructions for is computed in float32, where the memory allows it.
    """
    if model.device.type != "cpu" or not torch.backends.mkl.is_available():
        return
    if model.dtype in (torch.bfloat16, torch.float16) and not multiplies(model.dtype):
        _widen(model)
    head = model.get_output_embeddings()
    for module in _matrices(model):
        if module.weight.dtype == torch.float32:
            if module is head:
                module.forward = functools.partial(_many_outputs, module)  # type: ignore[method-assign]
            else:
                module.weight.data = module.weight.data.t().contiguous().t()
        elif module.weight.dtype == torch.bfloat16 and multiplies(torch.bfloat16) and module is not head:
            pack(module)


def restore(model: PreTrainedModel) -> None:
    """Undoes `lay_out`, so that the model can be saved; its dtype stays."""
    for module in _matrices(model):
        if module.weight.is_mkldnn:
            module.weight = nn.Parameter(module.weight.to_dense(), requires_grad=False)
        module.weight.data = module.weight.data.contiguous()
        vars(module).pop("forward", None)


def pack(module: nn.Linear) -> None:
    """Puts a layer's weight into the blocks of oneDNN, which else makes them anew at each product."""
    packed = torch.ops.mkldnn._reorder_linear_weight(module.weight.data)
    module.weight = nn.Parameter(packed, requires_grad=False)
    module.forward = functools.partial(_packed, module)  # type: ignore[method-assign]


def _matrices(model: PreTrainedModel) -> Iterator[nn.Linear]:
    # Sub-classes are quantized or sharded: theirs is another layout.
    return (
        module
        for module in model.modules()
        if type(module) is nn.Linear and module.weight.device.type == "cpu"
    )


def _widen(model: PreTrainedModel) -> None:
    extra = sum(weight.numel() * (4 - weight.element_size()) for weight in model.parameters())
    if extra > 0.8 * psutil.virtual_memory().available:
        return
    logger.info("computing in float32: this CPU has no instructions for %s", model.dtype)
    model.float()


def _packed(module: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, module.weight, module.bias, "none", [], "")


def _many_outputs(module: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    rows = x.reshape(-1, x.shape[-1])
    if len(rows) < _MANY or module.bias is not None:
        return nn.functional.linear(x, module.weight, module.bias)
    return torch.mm(module.weight, rows.t()).t().contiguous().view(*x.shape[:-1], -1)
