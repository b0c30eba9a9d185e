"""Weights laid out in memory as this machine multiplies them fastest; their values stay what they are.

A matrix product first copies a weight into the blocks that its kernel reads. For the few rows that are live
in a generation it takes longer than the product, so it is done once.
"""

import functools
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import psutil
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from engine.joining import Matrix, Product, siblings

logger = logging.getLogger(__name__)


def multiplies(dtype: torch.dtype) -> bool:
    """Whether this machine's CPU has matrix instructions for a dtype; without, half precision is emulated."""
    if dtype == torch.float32:
        return True
    wanted = {torch.bfloat16: "amx_bf16", torch.float16: "amx_fp16"}[dtype]
    return bool(torch.cpu.get_capabilities().get(wanted))


def lay_out(model: PreTrainedModel) -> None:
    """Packs the layers that are plain matrices, where they are on a CPU that oneDNN computes on.

    Half precision that the CPU has no instructions for is computed in float32, and an output layer that is
    the embedding gets a weight of its own, each where the memory allows it.
    """
    if model.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return
    quantized = getattr(model, "is_quantized", False)  # Its layers cannot be cast.
    if model.dtype in (torch.bfloat16, torch.float16) and not multiplies(model.dtype) and not quantized:
        _widen(model)
    embedding: Any = getattr(model.get_input_embeddings(), "weight", None)  # Not all have one.
    layers = [
        module
        for module in _matrices(model)
        if _packable(module.weight) and (module.weight is not embedding or _affordable(module.weight.nbytes))
    ]
    for group in siblings(model, layers) if layers else ():
        pack(group)


def restore(model: PreTrainedModel) -> None:
    """Undoes `lay_out`, so that the model can be saved; its dtype stays."""
    for module in _matrices(model):
        packed = vars(module).pop("forward", None)
        if packed is not None:
            product, number = packed.args
            weight = product.dense(number)
            weight = weight.t().contiguous() if isinstance(module, Conv1D) else weight
            module.weight = nn.Parameter(weight, requires_grad=False)
    model.tie_weights()


def pack(layers: Sequence[Matrix]) -> None:
    """Puts the weights of layers that read one tensor into oneDNN's blocks, as one product."""
    product = Product(layers)
    for number, layer in enumerate(layers):
        layer.weight = product.weight
        layer.forward = functools.partial(Product.run, product, number)  # type: ignore[method-assign]


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
    if _affordable(extra):
        logger.info("computing in float32: this CPU has no instructions for %s", model.dtype)
        model.float()


def _affordable(extra: int) -> bool:
    return extra <= 0.8 * psutil.virtual_memory().available
