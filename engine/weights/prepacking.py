"""Weights laid out as this machine multiplies them fastest, in a dtype that it multiplies well."""

import functools
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from engine import trial
from engine.generation.hf_generate import forced_logits
from engine.memory import free_memory
from engine.progress import line
from engine.weights import cpu
from engine.weights.fusing import Matrix, Product, observe, siblings
from engine.weights.kernels import HALF

logger = logging.getLogger(__name__)

# How far logits in float32 may be from those in half precision, which are the ones that are rounded.
WIDENED = 0.5


def lay_out(model: PreTrainedModel) -> dict[str, torch.dtype]:
    """Packs the layers that are plain matrices, where they are on a CPU.

    A half-precision model that the CPU multiplies no faster than float32 computes in float32 from then on,
    where the memory allows it; so does an output layer that is the embedding get a weight of its own.

    Returns:
        The dtype that each weight had, for `restore`.
    """
    dtypes = {name: weight.dtype for name, weight in model.state_dict().items()}
    if model.device.type != "cpu" or is_spread(model):
        return dtypes
    quantized = getattr(model, "is_quantized", False)  # Its layers cannot be cast.
    widen = model.dtype in HALF and not cpu.multiplies(model.dtype) and not quantized
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
    with trial.narrowed_windows(model):
        try:
            observed = observe(model, layers)
        except Exception as error:  # A model's code is its author's.
            logger.info("the weights stay as they are, for the model fails on a trial: %s", error)
            return dtypes
        before = [observed.output, *_answered(model)]
        _pack_all(siblings(model, observed))
        if widen:
            model.float()
        why = _changed(model, before, WIDENED if widen else trial.tolerance(model))
    if why is not None:
        restore(model, dtypes)
        logger.warning("the weights stay as they are, for the model %s with others", why)
    elif widen:
        logger.info("computing in float32: this CPU multiplies %s no faster", observed.output.dtype)
    return dtypes


def _pack_all(groups: Sequence[Sequence[Matrix]]) -> None:
    # One thread lays out 20 million a second.
    with (
        ThreadPoolExecutor(torch.get_num_threads()) as pool,
        line("laying out weights", len(groups), "matrix") as shown,
    ):
        for _ in pool.map(pack, groups):
            shown.update()


def _changed(model: PreTrainedModel, before: Sequence[torch.Tensor], tolerance: float) -> str | None:
    """What a model does otherwise than before, if anything."""
    try:
        found = [observe(model).output, *_answered(model)]
    except Exception as error:  # It may read a weight past its layer.
        return f"fails ({type(error).__name__}: {error})"
    if len(found) != len(before):
        return "fails"
    far = trial.relative_error(found, before)
    return None if far <= tolerance else f"gives other numbers (by {far:.1e})"


def _answered(model: PreTrainedModel) -> list[torch.Tensor]:
    """The logits of a short answer, which a model may make otherwise than it reads; [] where it cannot."""
    if not model.can_generate():
        return []
    try:
        return [forced_logits(model, trial.prompts(model)[:1], pad=0)]
    except Exception as error:  # A model's code is its author's.
        logger.debug("a trial of an answer failed", exc_info=error)
        return []


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
    known = weight.dtype in (torch.float32, *HALF) and weight.numel() > 0
    return known and (widen or cpu.multiplies(weight.dtype))


def _matrices(model: PreTrainedModel) -> Iterator[Any]:
    # Sub-classes are quantized or sharded: theirs is another layout.
    return (
        module
        for module in model.modules()
        if type(module) in (nn.Linear, Conv1D) and module.weight.device.type == "cpu"
    )


def _growth(model: PreTrainedModel, packed: Collection[nn.Parameter]) -> int:
    """Bytes that a half-precision model takes more when it computes in float32."""
    grown = set(model.parameters()) - set(packed if cpu.keeps_half() else ())
    return sum(weight.numel() * (torch.float32.itemsize - weight.itemsize) for weight in grown)


def _affordable(extra: int) -> bool:
    return extra <= 0.8 * free_memory(torch.device("cpu"))
