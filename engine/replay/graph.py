"""Two recordings of a pass, with different numbers of tokens, as one graph for any number of tokens."""

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from engine.attention.parameters import AttentionParameters
from engine.replay.recorder import Operation, Unrecordable, Value, attend

# An `fx.Node`; the types of its arguments are unions of all there is.
Node = Any
INPUTS = "tokens", "positions", "wanted"
NUMBERS = "count", "wanted_count"


def build(
    recordings: Sequence[Sequence[Operation]], counts: Sequence[tuple[int, int]], outputs: Sequence[Value]
) -> fx.Graph:
    """The graph of a pass.

    Its placeholders are `INPUTS`, `metadata` (of the attention) and `NUMBERS`. What is not of the pass
    (weights, say) stands in `get_attr` nodes, as `meta["constant"]`.

    Args:
        recordings: of two passes with other tokens, whose first values are the inputs.
        counts: of each, the number of tokens, and of those whose logits are wanted.
        outputs: what each pass returns.

    Raises:
        Unrecordable: the passes differ by more than these numbers.
    """
    one, other = recordings
    if len(one) != len(other) or outputs[0] != outputs[1]:
        raise Unrecordable("its operations depend on the tokens")
    return _Builder(counts).build(zip(one, other, strict=True), outputs[0])


class _Builder:
    def __init__(self, counts: Sequence[tuple[int, int]]) -> None:
        self.graph = fx.Graph()
        self._nodes = [self.graph.placeholder(name) for name in INPUTS]
        self._metadata = self.graph.placeholder("metadata")
        numbers = [self.graph.placeholder(name) for name in NUMBERS]
        # The numbers that sizes may depend on, with their values in both recordings.
        self._counts = list(zip(numbers, *counts, strict=True))
        self._constants: dict[int, Node] = {}
        self._numbers: dict[tuple[Any, ...], Node] = {}

    def build(self, pairs: Iterable[tuple[Operation, Operation]], output: Value) -> fx.Graph:
        for one, other in pairs:
            if one.function is not other.function or one.outputs != other.outputs:
                raise Unrecordable("its operations depend on the tokens")
            args, kwargs = self._merge((one.args, dict(one.kwargs)), (other.args, dict(other.kwargs)))
            if one.function is attend:
                args = (self._metadata, *args)
            self._add_outputs(self.graph.call_function(one.function, args, kwargs), one.outputs)
        self.graph.output(self._nodes[output.index])
        return self.graph

    def _add_outputs(self, node: Node, outputs: Any) -> None:
        parts = [(None, outputs)] if isinstance(outputs, Value) else list(enumerate(outputs))
        for position, value in parts:
            if not isinstance(value, Value):
                raise Unrecordable("an operation returns more than tensors")
            if value.index == len(self._nodes):
                got = (
                    node if position is None else self.graph.call_function(operator.getitem, (node, position))
                )
                self._nodes.append(got)

    def _merge(self, one: Any, other: Any) -> Any:
        leaves, structure = tree_flatten(one)
        others, other_structure = tree_flatten(other)
        if structure != other_structure:
            raise Unrecordable("its operations depend on the tokens")
        merged = [self._merge_leaf(*pair) for pair in zip(leaves, others, strict=True)]
        return tree_unflatten(merged, structure)

    def _merge_leaf(self, one: Any, other: Any) -> Any:
        if type(one) is int and type(other) is int:
            return self._number(one, other)
        if isinstance(one, Value) and one == other:
            return self._nodes[one.index]
        if not _same(one, other):
            raise Unrecordable("its operations depend on the tokens")
        if one is None or isinstance(one, bool | float | str):
            return one
        return self._constant(one)

    def _number(self, one: int, other: int) -> Any:
        found = dependence(one, other, [pair for _, *pair in self._counts])
        if found is None:
            return one
        index, factor, addend = found
        count = self._counts[index][0]
        if addend:
            return self._computed(operator.add, count, addend)
        return count if factor == 1 else self._computed(operator.mul, count, factor)

    def _computed(self, function: Callable[[int, int], int], count: Node, number: int) -> Node:
        key = function, count, number
        if key not in self._numbers:
            with self.graph.inserting_after(self._counts[-1][0]):
                self._numbers[key] = self.graph.call_function(function, (count, number))
        return self._numbers[key]

    def _constant(self, value: Any) -> Node:
        if id(value) not in self._constants:
            with self.graph.inserting_before(next(iter(self.graph.nodes))):
                node = self.graph.create_node("get_attr", f"constant_{len(self._constants)}")
            node.meta["constant"] = value  # Which also keeps its id unique.
            self._constants[id(value)] = node
        return self._constants[id(value)]


def dependence(one: int, other: int, counts: Sequence[Sequence[int]]) -> tuple[int, int, int] | None:
    """How a number depends on the counts of two passes; None if it is the same in both.

    Args:
        one, other: the number in each pass.
        counts: each count, in both passes.

    Returns:
        The index of a count, a factor and an addend: a multiple of a count, or a count plus a constant.

    Raises:
        Unrecordable: it depends on them in another way.
    """
    if one == other:
        return None
    for index, (first, second) in enumerate(counts):
        factor = one // first
        if (one, other) == (factor * first, factor * second):
            return index, factor, 0
        if one - first == other - second:
            return index, 1, one - first
    raise Unrecordable("a size in it depends on the tokens")


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, AttentionParameters) and isinstance(other, AttentionParameters):
        return all(_same(getattr(one, name), getattr(other, name)) for name in AttentionParameters.__slots__)
    if one is other:
        return True
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        alike = one.shape == other.shape and one.dtype == other.dtype
        return alike and not one.is_mkldnn and torch.equal(one, other)
    if isinstance(one, torch.ScriptObject) and isinstance(other, torch.ScriptObject):
        return hash(one) == hash(other)  # Of its address: each call wraps a packed weight anew.
    return type(one) is type(other) and bool(one == other)
