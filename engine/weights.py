"""Weights laid out as this machine multiplies them fastest, in a dtype that it has instructions for."""

import functools
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from engine.joining import Matrix, Product, siblings
from engine.kernels import HALF, keeps_half, multiplies
from engine.memory import free_memory
from engine.progress import line

logger = logging.getLogger(__name__)


def lay_out(model: PreTrainedModel) -> dict[str, torch.dtype]:
    """Packs the layers that are plain matrices, where they are on a CPU that oneDNN computes on.

    A half-precision model that the CPU has no instructions for computes in float32 from then on, where the
    memory allows it; so does an output layer that is the embedding get a weight of its own.

    Returns:
        The dtype that each weight had, for `restore`.
    """
    dtypes = {name: weight.dtype for name, weight in model.state_dict().items()}
    if model.device.type != "cpu" or is_spread(model) or not torch.backends.mkldnn.is_available():
        return dtypes
    quantized = getattr(model, "is_quantized", False)  # Its layers cannot be cast.
    widen = model.dtype in HALF and not multiplies(model.dtype) and not quantized
    embedding: Any = getattr(model.get_input_embeddings(), "weight", None)  # Not all have one.
    layers = [
        module
        for module in _matrices(model)
        if _packable(module.weight, widen)
        and (module.weight is not embedding or _affordable(module.weight.nbytes))
    ]
    if widen and not _affordable(_growth(model, {layer.weight for layer in layers} - {embedding})):
        logger.warning("%s is emulated on this CPU and slow: there is no memory for float32", model.dtype)
        return dtypes
    groups = siblings(model, layers) if layers else []
    # One thread lays out 20 million a second.
    with (
        ThreadPoolExecutor(torch.get_num_threads()) as pool,
        line("laying out weights", len(groups), "matrix") as shown,
    ):
        for _ in pool.map(pack, groups):
            shown.update()
    if widen:
        logger.info("computing in float32: this CPU has no instructions for %s", model.dtype)
        model.float()
    return dtypes


def restore(model: PreTrainedModel, dtypes: Mapping[str, torch.dtype]) -> None:
    """Undoes `lay_out`, so that the model can be saved.

    Args:
        dtypes: what `lay_out` returned.
    """
    for module in _matrices(model):
        packed = vars(module).pop("forward", None)
        if packed is not None:
            product, number = packed.args
            weight = product.dense(number)
            weight = weight.t().contiguous() if isinstance(module, Conv1D) else weight
            module.weight = nn.Parameter(weight, requires_grad=False)
    for name, weight in model.state_dict(keep_vars=True).items():
        weight.data = weight.data.to(dtypes[name])
    model.tie_weights()


def pack(layers: Sequence[Matrix]) -> None:
    """Lays out the weights of layers that read one tensor, as one product."""
    product = Product(layers)
    # What reads a weight past its layer finds nothing, and fails.
    nothing = nn.Parameter(torch.empty(0, dtype=product.dtype), requires_grad=False)
    for number, layer in enumerate(layers):
        layer.weight = nothing
        layer.forward = functools.partial(Product.run, product, number)  # type: ignore[method-assign]


def is_spread(model: PreTrainedModel) -> bool:
    """Whether a model is on several devices."""
    return len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1


def _packable(weight: torch.Tensor, widen: bool) -> bool:
    if weight.dtype not in (torch.float32, *HALF) or not weight.numel():
        return False
    return widen or (weight.dtype != torch.float16 and multiplies(weight.dtype))


def _matrices(model: PreTrainedModel) -> Iterator[Any]:
    # Sub-classes are quantized or sharded: theirs is another layout.
    return (
        module
        for module in model.modules()
        if type(module) in (nn.Linear, Conv1D) and module.weight.device.type == "cpu"
    )


def _growth(model: PreTrainedModel, packed: Collection[nn.Parameter]) -> int:
    """Bytes that a half-precision model takes more when it computes in float32."""
    grown = set(model.parameters()) - set(packed if keeps_half() else ())
    return sum(weight.numel() * (torch.float32.itemsize - weight.itemsize) for weight in grown)


def _affordable(extra: int) -> bool:
    return extra <= 0.8 * free_memory(torch.device("cpu"))
