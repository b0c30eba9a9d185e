"""Rewrites a graph with fewer operations for the same numbers: rotary positions (RoPE)."""

import operator
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

# An `fx.Node`; the types of its arguments are unions of all there is.
Node = Any
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

    output: Node
    x: Node
    cos: Node
    sin: Node
    half: int


def rewrite(graph: fx.Graph) -> None:
    """Rewrites each rotation as three operations instead of five, and those of query and key as one."""
    _share(graph, _ATEN.unsqueeze.default)
    signed: dict[tuple[Node, int], Node] = {}
    rotations = deque(rotation for node in graph.nodes if (rotation := _rotation(node)))
    while rotations:
        one = rotations.popleft()
        with graph.inserting_before(one.output):
            if rotations and (joined := _joined(graph, one, rotations[0])):
                x, heads = joined
                rotated = _rotate(graph, replace(one, x=x), signed)
                parts = graph.call_function(_ATEN.split_with_sizes.default, (rotated, heads, 1))
                for index, each in enumerate((one, rotations.popleft())):
                    part = graph.call_function(operator.getitem, (parts, index))
                    each.output.replace_all_uses_with(part)
            else:
                one.output.replace_all_uses_with(_rotate(graph, one, signed))
    graph.eliminate_dead_code()


def _joined(graph: fx.Graph, one: _Rotation, other: _Rotation) -> tuple[Node, list[int]] | None:
    """Query and key as one tensor, (1, heads, tokens, dim), where one projection computes both side by side.

    Returns:
        It, and the numbers of heads of both; None where they do not lie so.
    """
    found, following = _heads(one.x), _heads(other.x)
    if (
        found is None
        or following is None
        or (one.cos, one.sin, one.half) != (other.cos, other.sin, other.half)
    ):
        return None
    (split, first, shape), (other_split, second, other_shape) = found, following
    if split is not other_split or second != first + 1 or shape != other_shape:
        return None
    sizes, dim = split.args[1], shape[-1]
    both = graph.call_function(
        _ATEN.narrow.default, (split.args[0], -1, sum(sizes[:first]), sizes[first] + sizes[second])
    )
    viewed = graph.call_function(_ATEN.view.default, (both, shape))
    x = graph.call_function(_ATEN.transpose.int, (viewed, 1, 2))
    return x, [sizes[first] // dim, sizes[second] // dim]


def _heads(x: Node) -> tuple[Node, int, list[Any]] | None:
    """The split that a part of a projection comes from, its index there, and its shape.

    None if x is not such a part, (1, tokens, size), viewed as (1, tokens, -1, dim) and transposed.
    """
    if not (_calls(x, _ATEN.transpose.int) and x.args[1:] == (1, 2)):
        return None
    viewed = x.args[0]
    if not _calls(viewed, _ATEN.view.default):
        return None
    part, shape = viewed.args
    if not (_calls(part, operator.getitem) and _calls(part.args[0], _ATEN.split_with_sizes.default)):
        return None
    split, index = part.args
    flat = split.args[2:] == (-1,) and len(shape) == 4 and shape[2] == -1 and isinstance(shape[3], int)
    return (split, index, shape) if flat else None


def _share(graph: fx.Graph, function: Callable[..., Any]) -> None:
    """Calls a function without side effects once for the same arguments: for all layers, say."""
    first: dict[tuple[Any, ...], Node] = {}
    for node in graph.nodes:
        if _calls(node, function):
            node.replace_all_uses_with(first.setdefault(node.args, node))


def _rotate(graph: fx.Graph, rotation: _Rotation, signed: dict[tuple[Node, int], Node]) -> Node:
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


def _rotation(node: Node) -> _Rotation | None:
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


def _swapped_half(node: Node) -> tuple[Node, int] | None:
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
