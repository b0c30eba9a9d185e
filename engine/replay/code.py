"""A graph as one Python function."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

# An `fx.Node`; the types of its arguments are unions of all there is.
Node = Any
_ATEN = torch.ops.aten
# The same functions by torch's Python bindings, whose calls take half the time.
_BINDINGS = {
    _ATEN.add.Tensor: torch.add,
    _ATEN.addcmul.default: torch.addcmul,
    _ATEN.cat.default: torch.cat,
    _ATEN.mul.Tensor: torch.mul,
    _ATEN.reshape.default: torch.Tensor.reshape,
    _ATEN.select.int: torch.select,
    _ATEN.silu.default: torch._C._nn.silu,
    _ATEN.transpose.int: torch.transpose,
    _ATEN.unsqueeze.default: torch.unsqueeze,
    _ATEN.view.default: torch.Tensor.view,
}


def function(graph: fx.Graph) -> Callable[..., Any]:
    """A function of the graph's placeholders, in their order."""
    names: dict[str, Any] = {}
    last_use = {part: node for node in graph.nodes for part in node.all_input_nodes}
    lines, placeholders = [], []
    for node in graph.nodes:
        if node.op == "placeholder":
            placeholders.append(node.name)
        elif node.op == "get_attr":
            names[node.name] = node.meta["constant"]
        elif node.op == "output":
            lines.append(f"return {_source(node.args[0], names)}")
        else:
            called = _source(_BINDINGS.get(node.target, node.target), names)
            given = [_source(part, names) for part in node.args]
            given += [f"{name}={_source(part, names)}" for name, part in node.kwargs.items()]
            lines.append(f"{node.name} = {called}({', '.join(given)})")
            # Memory is free for the next operation as soon as it is not needed.
            done = [
                part.name
                for part in dict.fromkeys([*node.all_input_nodes, node])
                if part.op == "call_function" and last_use.get(part, node) is node
            ]
            if done:
                lines.append(f"del {', '.join(done)}")
    source = f"def replay({', '.join(placeholders)}):\n" + "\n".join(f"    {line}" for line in lines)
    exec(source, names)  # noqa: S102  Of operations and numbers only: no text of the checkpoint is in it.
    replay: Callable[..., Any] = names["replay"]
    return replay


def _source(part: Any, names: dict[str, Any]) -> str:
    """A Python expression; what has none gets a name."""
    if isinstance(part, fx.Node):
        return part.name
    if isinstance(part, list | tuple):
        inner = "".join(f"{_source(each, names)}, " for each in part)
        return f"[{inner}]"
    if isinstance(part, slice):
        return (
            f"slice({_source(part.start, names)}, {_source(part.stop, names)}, {_source(part.step, names)})"
        )
    plain = part is None or isinstance(part, bool | int) or (isinstance(part, float) and math.isfinite(part))
    if plain:
        return repr(part)
    key = f"given_{id(part)}"
    names[key] = part  # Which also keeps its id unique.
    return key
