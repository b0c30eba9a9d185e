"""Records the operations of one packed forward pass, as torch's dispatcher sees them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from engine.attention.packed import AttentionMetadata
from engine.attention.parameters import AttentionParameters

_ATEN = torch.ops.aten
# Numbers that leave the tensors: Python code may have decided by them.
_READ_BY_PYTHON = {_ATEN._local_scalar_dense.default, _ATEN.item.default, _ATEN.is_nonzero.default}


class Unrecordable(Exception):
    """A pass that does more than compute tensors from its inputs."""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the pass, by the order in which they were made; the inputs come first."""

    index: int


@dataclass(frozen=True, slots=True)
class Operation:
    """A function call.

    Attributes:
        function: an operator of torch, or `attend`.
        args, kwargs: with a `Value` for each tensor of the pass; other tensors are the model's own.
        outputs: the same structure as its result.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: Any


def attend(
    metadata: AttentionMetadata,
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    parameters: AttentionParameters,
) -> torch.Tensor:
    """The attention of one layer as a function, which a recording holds as one operation."""
    return metadata.attend(layer, query, key, value, parameters)


class Recorder(TorchDispatchMode):
    """While active, records each operation. It is the attention metadata of the pass, too.

    Attributes:
        operations: in the order in which they ran.
    """

    def __init__(self, metadata: AttentionMetadata, inputs: Sequence[torch.Tensor]) -> None:
        """Starts with the inputs of the pass as its first values.

        Args:
            metadata: computes the attention of the pass, which is not recorded in detail.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        self._metadata = metadata
        self._values: dict[int, Value] = {}
        # Holding each tensor keeps its id unique.
        self._held: list[torch.Tensor] = []
        self._foreign: set[int] = set()  # The storages of tensors that are the model's own.
        self._paused = False
        tree_map(self._number, tuple(inputs))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if not self._paused:
            self._record(func, args, kwargs, output)
        return output

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        parameters: AttentionParameters,
    ) -> torch.Tensor:
        """Computes the attention of a layer, as one operation of the recording."""
        if parameters.sinks is not None and id(parameters.sinks) in self._values:
            raise Unrecordable("its attention sinks are computed")
        with self._pause():
            # A tensor of its own: the attention of one sequence is a view of what it was computed from.
            output = self._metadata.attend(layer, query, key, value, parameters).clone()
        self._record(attend, (layer, query, key, value, parameters), {}, output)
        return output

    def value_of(self, tensor: torch.Tensor) -> Value:
        """The number of a tensor of the pass.

        Raises:
            Unrecordable: it is not of this pass.
        """
        try:
            return self._values[id(tensor)]
        except KeyError:
            raise Unrecordable("its output was not computed in the pass") from None

    def _record(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if func in _READ_BY_PYTHON:
            raise Unrecordable("its code decides by numbers that it computes")
        schema = getattr(func, "_schema", None)
        changes = schema is not None and schema.is_mutable
        if not changes and isinstance(output, torch.Tensor) and id(output) in self._values:
            return  # It had nothing to do, as a cast to the same dtype.
        if torch.Tag.nondeterministic_seeded in getattr(func, "tags", ()):
            raise Unrecordable(f"it draws random numbers ({func})")
        given = tree_map(self._reference, (args, kwargs))
        if changes and not (args and _storage(args[0]) not in self._foreign):
            raise Unrecordable(f"it changes what is not of the pass ({func})")
        self.operations.append(Operation(func, given[0], given[1], tree_map(self._number, output)))

    def _number(self, part: Any) -> Any:
        if not isinstance(part, torch.Tensor):
            return part
        if id(part) not in self._values:
            self._values[id(part)] = Value(len(self._held))
            self._held.append(part)
        return self._values[id(part)]

    def _reference(self, part: Any) -> Any:
        if not isinstance(part, torch.Tensor) or id(part) in self._values:
            return self._values.get(id(part), part)
        self._foreign.add(_storage(part))
        return part

    @contextmanager
    def _pause(self) -> Iterator[None]:
        self._paused = True
        try:
            yield
        finally:
            self._paused = False


def _storage(tensor: torch.Tensor) -> int:
    """The address of a tensor's memory; 0 where it has none that torch knows (oneDNN's layouts)."""
    return 0 if tensor.is_mkldnn else tensor.untyped_storage().data_ptr()
