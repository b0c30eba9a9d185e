"""Prepacks a model's weights for this machine's CPU, in a dtype that it computes fast, and restores them."""

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
from engine.errors import ConfigurationError
from engine.loading.placement import is_sharded
from engine.memory import usable_memory
from engine.progress import progress_bar
from engine.weights import cpu
from engine.weights.fusing import FusedProjection, LinearLayer, fusable_groups, trace
from engine.weights.kernels import HALF_DTYPES
from engine.weights.simplifying import simplify

logger = logging.getLogger(__name__)

# How far float32 logits may be from those of the same model in half precision, which are rounded.
_WIDENED_TOLERANCE = 0.5


def prepack(model: PreTrainedModel, int8: bool = False) -> dict[str, torch.dtype]:
    """On a CPU, replaces linear layers by fused projections with prepacked weights, and simplifies modules.

    Where the CPU computes half precision no faster than float32 and memory allows it, a half-precision model
    computes in float32 from then on. Where memory allows it, an output layer tied to the embedding gets a
    prepacked copy of the weight. A model that computes something else with prepacked weights is restored.

    Args:
        int8: has layers compute in 8 bits, but for those whose outputs that would change; they cannot be
            restored.

    Returns:
        The dtype of each weight before, by name; `restore` takes it.

    Raises:
        ConfigurationError: a model that cannot be run in 8 bits.
    """
    dtypes = {name: weight.dtype for name, weight in model.state_dict().items()}
    if model.device.type != "cpu" or is_sharded(model):
        return dtypes
    size = sum(weight.numel() for weight in model.parameters())
    quantized = getattr(model, "is_quantized", False)  # Quantized layers cannot be cast.
    widen = model.dtype in HALF_DTYPES and not cpu.computes_natively(model.dtype) and not quantized
    embedding: Any = getattr(model.get_input_embeddings(), "weight", None)  # Not every model has one.
    layers = [
        module
        for module in _linear_layers(model)
        if _can_prepack(module.weight, widen)
        and (module.weight is not embedding or _fits_in_memory(module.weight.nbytes))
    ]
    prepacked = {layer.weight for layer in layers} - {embedding}
    if widen and not _fits_in_memory(_widening_bytes(model, prepacked)):
        if int8:
            raise _not_int8("has no memory to compute in float32")
        logger.warning("%s is emulated on this CPU and slow: there is no memory for float32", model.dtype)
        return dtypes
    with trial.narrowed_windows(model):
        try:
            traced = trace(model, layers)
        except Exception as error:  # Third-party code: any exception is possible.
            if int8:
                raise _not_int8(f"fails on a trial ({error})") from error
            logger.info("the weights stay as they are, for the model fails on a trial: %s", error)
            return dtypes
        before = [traced.output, *_answer_logits(model)]
        share = _fuse_all(fusable_groups(model, traced), dict(traced.inputs) if int8 else {}) / size
        if widen:
            model.float()
        simplify(model)
        rounded = _WIDENED_TOLERANCE if widen else trial.ROUNDED if int8 else trial.tolerance(model)
        why = _changed(model, before, rounded)
    if int8:
        if why is not None or not share:
            raise _not_int8(why or "has no layer that gives about the same numbers")
        logger.info("computing in 8 bits with %.0f %% of the weights", 100 * share)
    if why is not None:
        restore(model, dtypes)
        logger.warning("the weights stay as they are, for the model %s with others", why)
    elif widen:
        logger.info("computing in float32: this CPU multiplies %s no faster", traced.output.dtype)
    return dtypes


def restore(model: PreTrainedModel, dtypes: Mapping[str, torch.dtype]) -> None:
    """Undoes `prepack`, so that the model can be saved.

    Args:
        dtypes: what `prepack` returned.
    """
    for module in _linear_layers(model):
        fused = vars(module).pop("forward", None)
        if fused is not None:
            projection, index = fused.args
            weight = projection.unpack(index)
            weight = weight.t().contiguous() if isinstance(module, Conv1D) else weight
            module.weight = nn.Parameter(weight, requires_grad=False)
    for module in model.modules():
        vars(module).pop("forward", None)  # Of `simplify`.
    for name, weight in model.state_dict(keep_vars=True).items():
        weight.data = weight.data.to(dtypes[name])
    model.tie_weights()


def fuse(layers: Sequence[LinearLayer], int8_input: torch.Tensor | None = None) -> int:
    """Has layers with the same input compute by one fused projection, and frees their own weights.

    Args:
        int8_input: as `FusedProjection` has it.

    Returns:
        How many weights are in 8 bits.
    """
    size = sum(layer.weight.numel() for layer in layers)
    projection = FusedProjection(layers, int8_input)
    # Code that reads a weight directly finds an empty one, and fails.
    dtype = torch.int8 if projection.is_int8 else projection.dtype
    empty = nn.Parameter(torch.empty(0, dtype=dtype), requires_grad=False)
    for index, layer in enumerate(layers):
        layer.weight = empty
        layer.forward = functools.partial(  # type: ignore[method-assign]
            FusedProjection.run, projection, index
        )
    return size if projection.is_int8 else 0


def _fuse_all(
    groups: Sequence[Sequence[LinearLayer]], int8_inputs: Mapping[LinearLayer, torch.Tensor]
) -> int:
    """Fuses each group; returns how many weights are in 8 bits."""

    def fuse_group(group: Sequence[LinearLayer]) -> int:
        return fuse(group, int8_inputs.get(group[0]))

    # One thread prepacks 20 million weights a second.
    with (
        ThreadPoolExecutor(torch.get_num_threads()) as pool,
        progress_bar("prepacking weights", len(groups), "matrix") as bar,
    ):
        # The first alone: it may time kernels, once per process.
        total = sum(map(fuse_group, groups[:1]))
        bar.update(len(groups[:1]))
        for size in pool.map(fuse_group, groups[1:]):
            total += size
            bar.update()
    return total


def _not_int8(why: str) -> ConfigurationError:
    return ConfigurationError(f"quantize: int8 cannot be used, for the model {why}: leave it out")


def _changed(model: PreTrainedModel, before: Sequence[torch.Tensor], tolerance: float) -> str | None:
    """What differs from before, as a verb phrase; None if nothing does."""
    try:
        found = [trace(model).output, *_answer_logits(model)]
    except Exception as error:  # It may read a weight without calling its layer.
        return f"fails ({type(error).__name__}: {error})"
    if len(found) != len(before):
        return "fails"
    distance = trial.relative_error(found, before)
    return None if distance <= tolerance else f"gives other numbers (by {distance:.1e})"


def _answer_logits(model: PreTrainedModel) -> list[torch.Tensor]:
    """The logits of a short generated answer: decoding may run other code than a prompt. [] if it fails."""
    if not model.can_generate():
        return []
    try:
        return [trial.forced_logits(model, trial.prompts(model)[:1], pad=0)]
    except Exception as error:  # Third-party code: any exception is possible.
        logger.debug("a trial of an answer failed", exc_info=error)
        return []


def _can_prepack(weight: torch.Tensor, widen: bool) -> bool:
    known = weight.dtype in (torch.float32, *HALF_DTYPES) and weight.numel() > 0
    return known and (widen or cpu.computes_natively(weight.dtype))


def _linear_layers(model: PreTrainedModel) -> Iterator[Any]:
    # Not subclasses, which are quantized or sharded layers.
    return (
        module
        for module in model.modules()
        if type(module) in (nn.Linear, Conv1D) and module.weight.device.type == "cpu"
    )


def _widening_bytes(model: PreTrainedModel, prepacked: Collection[nn.Parameter]) -> int:
    """Bytes that a half-precision model needs in addition when it computes in float32."""
    widened = set(model.parameters()) - set(prepacked if cpu.supports_fp16_storage() else ())
    return sum(weight.numel() * (torch.float32.itemsize - weight.itemsize) for weight in widened)


def _fits_in_memory(extra: int) -> bool:
    return extra <= usable_memory(torch.device("cpu"))
