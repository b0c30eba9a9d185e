"""Rewrites a graph with fewer operations for the same numbers: rotary positions (RoPE)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

_ATEN = torch.ops.aten
_END = 2**62  # A slice that ends here or beyond goes to the end.


@dataclass(frozen=True, slots=True)
class _Rotation:
    """`x * cos + cat(-x[half:], x[:half]) * sin`, as transformers writes rotary positions.

    Attributes:
        output: the node of the sum.
        x: (…, dim).
        cos, sin: what it is multiplied with.
        half: half of dim.
    """

    output: fx.Node
    x: fx.Node
    cos: fx.Node
    sin: fx.Node
    half: int


def rewrite(graph: fx.Graph) -> None:
    """Rewrites each rotation as three operations instead of five, and one of query and key as one."""
    _share(graph, _ATEN.unsqueeze.default)
    signed: dict[tuple[fx.Node, int], fx.Node] = {}
    found = [rotation for node in graph.nodes if (rotation := _rotation(node))]
    for rotation in found:
        with graph.inserting_before(rotation.output):
            rotated = _rotate(graph, rotation, signed)
        rotation.output.replace_all_uses_with(rotated)
    graph.eliminate_dead_code()


def _share(graph: fx.Graph, function: Callable[..., Any]) -> None:
    """Calls a function without side effects once for the same arguments: for all layers, say."""
    first: dict[tuple[Any, ...], fx.Node] = {}
    for node in graph.nodes:
        if _calls(node, function):
            node.replace_all_uses_with(first.setdefault(node.args, node))


def _rotate(graph: fx.Graph, rotation: _Rotation, signed: dict[tuple[fx.Node, int], fx.Node]) -> fx.Node:
    x, half = rotation.x, rotation.half
    key = rotation.sin, half
    if key not in signed:
        with graph.inserting_after(rotation.sin):
            signed[key] = graph.call_function(_negate_first, (rotation.sin, half))
    parts = [graph.call_function(_ATEN.slice.Tensor, (x, -1, *ends)) for ends in ((half, _END), (0, half))]
    swapped = graph.call_function(_ATEN.cat.default, (parts, -1))
    scaled = graph.call_function(_ATEN.mul.Tensor, (x, rotation.cos))
    return graph.call_function(_ATEN.addcmul.default, (scaled, swapped, signed[key]))


def _negate_first(x: torch.Tensor, count: int) -> torch.Tensor:
    """(…, dim) with the first `count` numbers of each row negated."""
    return torch.cat((-x[..., :count], x[..., count:]), -1)


def _rotation(node: fx.Node) -> _Rotation | None:
    """The rotation that ends with this node, if there is one."""
    if not _calls(node, _ATEN.add.Tensor) or node.kwargs:
        return None
    for plain, turned in (node.args, node.args[::-1]):
        if not (_calls(plain, _ATEN.mul.Tensor) and _calls(turned, _ATEN.mul.Tensor)):
            continue
        for swapped, sin in (turned.args, turned.args[::-1]):
            half = _swapped_half(swapped)
            if half is None:
                continue
            x, cos = plain.args if plain.args[0] is half[0] else plain.args[::-1]
            if x is half[0] and isinstance(cos, fx.Node) and isinstance(sin, fx.Node):
                return _Rotation(node, x, cos, sin, half[1])
    return None


def _swapped_half(node: fx.Node) -> tuple[fx.Node, int] | None:
    """What `cat((-x[..., half:], x[..., :half]), -1)` is made of: x and half; None if the node is no such."""
    if not (_calls(node, _ATEN.cat.default) and node.args[1:] == (-1,)):
        return None
    parts = node.args[0]
    if not (isinstance(parts, list | tuple) and len(parts) == 2 and _calls(parts[0], _ATEN.neg.default)):
        return None
    second, first = parts[0].args[0], parts[1]
    if not (_calls(second, _ATEN.slice.Tensor) and _calls(first, _ATEN.slice.Tensor)):
        return None
    (x, dim, start, end), (other, other_dim, other_start, half) = second.args[:4], first.args[:4]
    same = x is other and dim == other_dim and len(second.args) == len(first.args) == 4
    whole = start == half and other_start == 0 and isinstance(end, int) and end >= _END
    return (x, half) if same and whole and isinstance(half, int) else None


def _calls(node: Any, function: Callable[..., Any]) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target is function
