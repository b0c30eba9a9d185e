"""Layers that read one tensor (query, key and value; gate and up), as one matrix product.

A product of few rows costs little but its own start, so that one over three weights takes less than three.
Which layers they are is seen on a trial, not known by name.
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
from engine.weights.cpu import lay_out

Matrix = nn.Linear | Conv1D


@dataclass(frozen=True, slots=True)
class Observed:
    """What a model did on a trial.

    Attributes:
        output: (1, tokens, dim) its logits, or hidden states where it has no head.
        reads: each layer that ran, and what it was given, in order. All tensors live: no two have one id.
    """

    output: torch.Tensor
    reads: list[tuple[Matrix, torch.Tensor]]


def observe(model: PreTrainedModel, layers: Collection[Matrix] = ()) -> Observed:
    """Runs the model on the longest sequence of a trial.

    Raises:
        Exception: whatever the model does; its code is its author's.
    """
    reads: list[tuple[Matrix, torch.Tensor]] = []

    def note(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(layer, Matrix)
        reads.append((layer, inputs[0]))

    reset_state(model)
    hooks = [layer.register_forward_pre_hook(note) for layer in layers]
    tokens = torch.tensor(trial.prompts(model)[:1])
    decodes = "decoder_input_ids" in inspect.signature(model.forward).parameters
    try:
        with torch.inference_mode():
            output = model(input_ids=tokens, **({"decoder_input_ids": tokens} if decodes else {}))
    finally:
        for hook in hooks:
            hook.remove()
    logits = getattr(output, "logits", None)
    return Observed(output[0] if logits is None else logits, reads)


def siblings(model: PreTrainedModel, observed: Observed) -> list[list[Matrix]]:
    """The layers that ran, those of one module that read one tensor together, in the order in which they do.

    A layer that ran more than once is alone. One that did not run is left out: what reads its weight may be
    another.
    """
    parents = {child: module for module in model.modules() for child in module.children()}
    times = Counter(layer for layer, _ in observed.reads)
    groups: dict[tuple[nn.Module, int], list[Matrix]] = {}
    for layer, x in observed.reads:
        if times[layer] == 1:
            groups.setdefault((parents[layer], id(x)), []).append(layer)
    return [*groups.values(), *([layer] for layer, count in times.items() if count > 1)]


class Product:
    """The weights of layers that read one tensor, laid out as one.

    Attributes:
        dtype: of what it reads and makes.
    """

    def __init__(self, layers: Sequence[Matrix]) -> None:
        weights = [layer.weight.t() if isinstance(layer, Conv1D) else layer.weight for layer in layers]
        self._sizes = [len(weight) for weight in weights]
        bias = None
        if any(layer.bias is not None for layer in layers):
            bias = torch.cat([_bias(layer) for layer in layers]).detach()
        self._kernel = lay_out(torch.cat(weights).detach(), bias)
        self.dtype = self._kernel.dtype
        # In one piece, so that no thread sees half of what another one sets.
        self._last: tuple[torch.Tensor | None, tuple[torch.Tensor, ...]] = None, ()

    def dense(self, number: int) -> torch.Tensor:
        """(outputs, inputs) the weight of one layer."""
        return self._kernel.dense().split(self._sizes)[number].clone()

    def run(self, number: int, x: torch.Tensor) -> torch.Tensor:
        """What one of the layers makes of a tensor; the first to be asked computes it for the others, too."""
        read, made = self._last
        if read is not x:
            made = self._kernel(x).split_with_sizes(self._sizes, -1)
        last = number == len(self._sizes) - 1
        self._last = (None, ()) if last else (x, made)
        return made[number]


def _bias(layer: Matrix) -> torch.Tensor:
    if layer.bias is not None:
        return layer.bias
    return layer.weight.new_zeros(layer.weight.shape[1 if isinstance(layer, Conv1D) else 0])
