"""Fused projections: linear layers with the same input (query, key, value; gate, up) as one matrix product.

For few rows a product mostly costs its start, so one product over three weights is faster than three. Which
layers share an input is observed in a trial run, not known by name.
"""

import inspect
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from engine import trial
from engine.module_state import reset_state
from engine.weights.cpu import best_kernel, int8_kernel_for

LinearLayer = nn.Linear | Conv1D


@dataclass(frozen=True, slots=True)
class Trace:
    """What a model computed in a trial run.

    Attributes:
        output: its logits, or its hidden states if it has no head; (1, tokens, dim).
        inputs: each layer that ran and its input, in order. Holding the inputs keeps their ids unique.
    """

    output: torch.Tensor
    inputs: list[tuple[LinearLayer, torch.Tensor]]


def trace(model: PreTrainedModel, layers: Collection[LinearLayer] = ()) -> Trace:
    """Runs the model on the longest trial sequence and records the inputs of some layers.

    Raises:
        Exception: whatever the model's own code raises.
    """
    inputs: list[tuple[LinearLayer, torch.Tensor]] = []

    def record(layer: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(layer, LinearLayer)
        inputs.append((layer, arguments[0]))

    reset_state(model)
    hooks = [layer.register_forward_pre_hook(record) for layer in layers]
    tokens = torch.tensor(trial.prompts(model)[:1])
    decodes = "decoder_input_ids" in inspect.signature(model.forward).parameters
    try:
        with torch.inference_mode():
            output = model(input_ids=tokens, **({"decoder_input_ids": tokens} if decodes else {}))
    finally:
        for hook in hooks:
            hook.remove()
    logits = getattr(output, "logits", None)
    return Trace(output[0] if logits is None else logits, inputs)


def fusable_groups(model: PreTrainedModel, traced: Trace) -> list[list[LinearLayer]]:
    """The layers that ran, grouped by parent module and input tensor, each group in running order.

    A layer that ran more than once is a group of its own. A layer that did not run is in no group, since
    another module may read its weight.
    """
    parents = {child: module for module in model.modules() for child in module.children()}
    runs = Counter(layer for layer, _ in traced.inputs)
    groups: dict[tuple[nn.Module, int], list[LinearLayer]] = {}
    for layer, x in traced.inputs:
        if runs[layer] == 1:
            groups.setdefault((parents[layer], id(x)), []).append(layer)
    return [*groups.values(), *([layer] for layer, count in runs.items() if count > 1)]


class FusedProjection:
    """Layers with the same input as one prepacked weight: their outputs are concatenated.

    Attributes:
        dtype: the dtype of its input and output.
        is_int8: whether its weight is in 8 bits.
    """

    def __init__(self, layers: Sequence[LinearLayer], int8_input: torch.Tensor | None = None) -> None:
        """Prepacks the layers' weights.

        Args:
            int8_input: an input of the layers; their weights are in 8 bits if that changes their outputs for
                it little. None: they are not.
        """
        weights = [layer.weight.t() if isinstance(layer, Conv1D) else layer.weight for layer in layers]
        self._sizes = [len(weight) for weight in weights]
        bias = None
        if any(layer.bias is not None for layer in layers):
            bias = torch.cat([_bias(layer) for layer in layers]).detach()
        weight = torch.cat(weights).detach()
        int8 = None if int8_input is None else int8_kernel_for(weight, bias, int8_input)
        self.is_int8 = int8 is not None
        self._kernel = int8 or best_kernel(weight, bias)
        self.dtype = self._kernel.dtype
        # One tuple, so that another thread never sees an input without its outputs.
        self._last: tuple[torch.Tensor | None, tuple[torch.Tensor, ...]] = None, ()

    def unpack(self, index: int) -> torch.Tensor:
        """The weight of one layer, (outputs, inputs) in `dtype`."""
        return self._kernel.unpack().split(self._sizes)[index].clone()

    def run(self, index: int, x: torch.Tensor) -> torch.Tensor:
        """The output of one layer; the first layer called with an input computes the outputs of all."""
        if len(self._sizes) == 1:
            return self._kernel(x)
        last_input, outputs = self._last
        if last_input is not x:
            outputs = self._kernel(x).split_with_sizes(self._sizes, -1)
        is_last_layer = index == len(self._sizes) - 1
        self._last = (None, ()) if is_last_layer else (x, outputs)
        return outputs[index]


def _bias(layer: LinearLayer) -> torch.Tensor:
    if layer.bias is not None:
        return layer.bias
    return layer.weight.new_zeros(layer.weight.shape[1 if isinstance(layer, Conv1D) else 0])
