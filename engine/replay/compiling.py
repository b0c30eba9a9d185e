"""A graph's small operations, compiled by torch's compiler (inductor) for any number of tokens.

The graph is cut at attention and at matrix products, as vLLM cuts it at attention: what lies between
is a piece of a few operations that read and write the same rows, which inductor makes one loop in C++. The
weights are arguments, so that all layers of one kind share a piece.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from engine.replay.graph import dependence

# An `fx.Node`; the types of its arguments are unions of all there is.
Node = Any
# What a node computes in each of the two recorded passes.
Values = dict[Node, tuple[Any, Any]]

_ATEN = torch.ops.aten
# Inductor calls the same kernels for them, if it can.
_PRODUCTS = {
    _ATEN._grouped_mm,
    _ATEN.addmm,
    _ATEN.baddbmm,
    _ATEN.bmm,
    _ATEN.convolution,
    _ATEN.linear,
    _ATEN.matmul,
    _ATEN.mm,
}
_CONFIG = {
    # Shapes are those that were recorded; an assertion takes as long as a small piece.
    "size_asserts": False,
    # Threads of a compiled loop would be those of another OpenMP library than torch's, on the same cores.
    "cpp.threads": 1,
    # Compiles here, not in processes that would stay.
    "compile_threads": 1,
}


class Uncompilable(Exception):
    """Operations that inductor computes otherwise than the graph has them."""


def evaluate(graph: fx.Graph, inputs: Sequence[Any]) -> dict[Node, Any]:
    """Runs a graph; what each of its nodes computes."""
    values: dict[Node, Any] = {}
    given = iter(inputs)
    for node in graph.nodes:
        if node.op == "placeholder":
            values[node] = next(given)
        elif node.op == "get_attr":
            values[node] = node.meta["constant"]
        elif node.op == "call_function":
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = node.target(*args, **kwargs)
    return values


def compile_pieces(graph: fx.Graph, values: Values, counts: Sequence[tuple[int, int]]) -> int:
    """Replaces the pieces of a graph by calls of compiled functions; returns how many different ones.

    Args:
        graph: by `engine.replay.graph.build`.
        values: what its nodes compute in two passes.
        counts: of each pass, the number of tokens, and of those whose logits are wanted.

    Raises:
        Exception: whatever the compiler raises; there may be none.
    """
    compiler = _Compiler(values, counts)
    for run in _runs(graph):
        outside = _outside(run)
        piece = [node for node in run if node not in outside]
        inside = set(piece)
        outputs = [node for node in piece if any(user not in inside for user in node.users)]
        if not outputs:
            continue
        inputs, function = compiler.compile(piece, outputs)
        with graph.inserting_after(run[-1]):
            call = graph.call_function(function, (inputs,))
        for index, output in reversed(list(enumerate(outputs))):
            with graph.inserting_after(call):
                part = graph.call_function(operator.getitem, (call, index))
            values[part] = values[output]
            output.replace_all_uses_with(part, delete_user_cb=lambda user, own=inside: user not in own)
        for node in reversed(piece):
            graph.erase_node(node)
    return len(compiler.functions)


def _runs(graph: fx.Graph) -> list[list[Node]]:
    """Operations that follow each other and may be one piece, in order."""
    runs: list[list[Node]] = [[]]
    for node in graph.nodes:
        if node.op == "call_function" and _compiles(node.target):
            runs[-1].append(node)
        else:
            runs.append([])
    return [run for run in runs if run]


def _compiles(function: Any) -> bool:
    if function is operator.getitem:
        return True
    return getattr(function, "namespace", None) == "aten" and function.overloadpacket not in _PRODUCTS


def _outside(run: Sequence[Node]) -> set[Node]:
    """Views of what a run is given that stay calls: parts of a list, and what no other operation reads."""
    inside = set(run)
    views = {node for node in run if _is_view(node)}
    for node in reversed(run):
        read = any(user in inside - views for user in node.users)
        if node in views and read and not _is_part(node):
            views.remove(node)
    found = set[Node]()
    for node in run:
        if node in views and all(part not in inside or part in found for part in node.all_input_nodes):
            found.add(node)
    return found


def _is_view(node: Node) -> bool:
    if node.target is operator.getitem:
        return True
    schema = node.target._schema
    return not schema.is_mutable and any(result.alias_info is not None for result in schema.returns)


def _is_part(node: Node) -> bool:
    """Whether a node is a list, or a part of one."""
    return node.target is operator.getitem or any(user.target is operator.getitem for user in node.users)


class _Compiler:
    """Compiles pieces, each kind once.

    Attributes:
        functions: by what a piece computes; of a list, which it empties, to a tuple.
    """

    def __init__(self, values: Values, counts: Sequence[tuple[int, int]]) -> None:
        self.functions: dict[str, Callable[[list[Any]], Any]] = {}
        self._values, self._counts = values, list(zip(*counts, strict=True))

    def compile(
        self, nodes: Sequence[Node], outputs: Sequence[Node]
    ) -> tuple[list[Node], Callable[[list[Any]], Any]]:
        """The nodes that a piece reads, and a function of their values."""
        from torch._subclasses.fake_tensor import FakeTensorMode
        from torch.fx.experimental.symbolic_shapes import ShapeEnv

        mode = FakeTensorMode(shape_env=ShapeEnv())
        # Of sizes that differ, so that each becomes a symbol of its own.
        sizes = [
            mode.from_tensor(torch.empty(count, device="cpu"), static_shapes=False).shape[0]
            for _, count in self._counts
        ]
        piece, inputs, given = fx.Graph(), dict[Node, Node](), list[Any]()
        inside: dict[Node, Node] = {}

        def copied(node: Node) -> Any:
            if node in inside:
                return inside[node]
            value = self._values[node][1]
            if not isinstance(value, torch.Tensor | int):
                return value  # A dtype, say.
            if node not in inputs:
                inputs[node] = piece.placeholder(f"input_{len(inputs)}")
                with mode:
                    given.append(self._symbolic(node, sizes))
            return inputs[node]

        for node in nodes:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), copied)
            inside[node] = piece.call_function(node.target, args, kwargs)
        piece.output(tuple(inside[node] for node in outputs))
        kind = f"{_text(piece)} {[_kind(each) for each in given]}"
        if kind not in self.functions:
            self.functions[kind] = inductor(piece, given, mode)
        return list(inputs), self.functions[kind]

    def _symbolic(self, node: Node, sizes: Sequence[Any]) -> Any:
        """What a node computes, with symbols for the numbers that depend on the tokens."""

        def size(one: int, other: int) -> Any:
            found = dependence(one, other, self._counts)
            if found is None:
                return one
            index, factor, addend = found
            return sizes[index] * factor + addend

        one, other = self._values[node]
        if isinstance(one, int):
            return size(one, other)
        shape, stride = (
            [size(*pair) for pair in zip(*ends, strict=True)]
            for ends in ((one.shape, other.shape), (one.stride(), other.stride()))
        )
        return torch.empty_strided(shape, stride, dtype=one.dtype, device=one.device)


def inductor(piece: fx.Graph, given: list[Any], mode: Any) -> Callable[[list[Any]], Any]:
    """Compiles a graph, without the checks that torch runs before each call.

    Args:
        given: fake inputs of `mode`, with symbols for sizes.

    Returns:
        A function of a list of its inputs, which it empties, to a tuple.
    """
    import torch._functorch.config
    import torch._inductor.config
    from torch._guards import TracingContext, tracing
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner

    made: list[tuple[Any, int, int]] = []

    def compile_inner(graph: fx.GraphModule, inputs: Any, **kwargs: Any) -> Any:
        returned: Any = graph.graph.output_node().args[0]
        made.append((compile_fx_inner(graph, inputs, **kwargs), len(inputs), len(returned)))
        return made[-1][0]

    outputs = len(piece.output_node().args[0])  # type: ignore[arg-type]
    with (
        torch._inductor.config.patch(_CONFIG),
        # It would return what surrounds the compiled function.
        torch._functorch.config.patch(enable_autograd_cache=False),
        tracing(TracingContext(mode)),
        torch.no_grad(),
    ):
        compile_fx(fx.GraphModule({}, piece), given, inner_compile=compile_inner)
    [(function, number, returned)] = made
    # Views of inputs are made, and inputs changed, by what surrounds the function. That takes three times as
    # long as a small piece, and is not called here.
    if (number, returned) != (len(given), outputs):
        raise Uncompilable("a piece changes or returns what it is given")
    if mode.shape_env.guards:
        raise Uncompilable("a piece is compiled for some numbers of tokens only")
    called: Callable[[list[Any]], Any] = function.current_callable
    return called


def _text(graph: fx.Graph) -> str:
    """What a graph computes; its nodes are called by their order."""
    for index, node in enumerate(graph.nodes):
        node.name = f"node_{index}"
    return "; ".join(f"{node.name} {node.target} {node.args} {node.kwargs}" for node in graph.nodes)


def _kind(given: Any) -> str:
    if isinstance(given, torch.Tensor):
        return f"{given.dtype} {given.device} {tuple(given.shape)} {given.stride()}"
    return str(given)
