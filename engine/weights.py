"""Weights laid out in memory as this machine multiplies them fastest; their values stay what they are.

A matrix product first copies a weight into the blocks that its kernel reads. For the few rows that are live
in a generation it takes longer than the product, so it is done once.
"""

import functools
import logging
from collections.abc import Iterator
from typing import Any

import psutil
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

logger = logging.getLogger(__name__)

# Rows from which on the output layer is faster with the vocabulary as the rows of the product.
_MANY = 4

Matrix = nn.Linear | Conv1D


def multiplies(dtype: torch.dtype) -> bool:
    """Whether this machine's CPU has matrix instructions for a dtype; without, half precision is emulated."""
    if dtype == torch.float32:
        return True
    wanted = {torch.bfloat16: "amx_bf16", torch.float16: "amx_fp16"}[dtype]
    return bool(torch.cpu.get_capabilities().get(wanted))


def lay_out(model: PreTrainedModel) -> None:
    """Packs the layers that are plain matrices, where they are on a CPU that oneDNN computes on.

    Half precision that the CPU has no instructions for is computed in float32, where the memory allows it.
    """
    if model.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return
    quantized = getattr(model, "is_quantized", False)  # Its layers cannot be cast.
    if model.dtype in (torch.bfloat16, torch.float16) and not multiplies(model.dtype) and not quantized:
        _widen(model)
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    for module in _matrices(model):
        if module is head and module.weight is embeddings.weight:
            module.forward = functools.partial(_many_outputs, module)  # type: ignore[method-assign]
        elif _packable(module.weight):
            pack(module)


def restore(model: PreTrainedModel) -> None:
    """Undoes `lay_out`, so that the model can be saved; its dtype stays."""
    for module in _matrices(model):
        if module.weight.is_mkldnn:
            weight = module.weight.to_dense()
            weight = weight.t().contiguous() if isinstance(module, Conv1D) else weight
            module.weight = nn.Parameter(weight, requires_grad=False)
        vars(module).pop("forward", None)


def pack(module: Matrix) -> None:
    """Puts a layer's weight into oneDNN's blocks."""
    weight = module.weight.data.t() if isinstance(module, Conv1D) else module.weight.data
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
    module.weight = nn.Parameter(packed, requires_grad=False)
    module.forward = functools.partial(_packed, module)  # type: ignore[method-assign]


def _packable(weight: torch.Tensor) -> bool:
    known = weight.dtype in (torch.float32, torch.bfloat16)
    return known and multiplies(weight.dtype) and not weight.is_mkldnn


def _matrices(model: PreTrainedModel) -> Iterator[Any]:
    # Sub-classes are quantized or sharded: theirs is another layout.
    return (
        module
        for module in model.modules()
        if type(module) in (nn.Linear, Conv1D) and module.weight.device.type == "cpu"
    )


def _widen(model: PreTrainedModel) -> None:
    extra = sum(weight.numel() * (4 - weight.element_size()) for weight in model.parameters())
    if extra > 0.8 * psutil.virtual_memory().available:
        return
    logger.info("computing in float32: this CPU has no instructions for %s", model.dtype)
    model.float()


def _packed(module: Matrix, x: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, module.weight, module.bias, "none", [], "")


def _many_outputs(module: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    rows = x.reshape(-1, x.shape[-1])
    if len(rows) < _MANY or module.bias is not None or x.dtype != torch.float32:
        return nn.functional.linear(x, module.weight, module.bias)
    return torch.mm(module.weight, rows.t()).t().contiguous().view(*x.shape[:-1], -1)
