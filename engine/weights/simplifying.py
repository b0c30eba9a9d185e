"""Small modules as one operation each: RMS norms and GELU, which transformers writes as five to eight.

For the few tokens of a decoding step, each operation costs its start. Which module is one of these is seen by
what it computes, not by its name.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import gelu, layer_norm
from torch.utils._python_dispatch import TorchDispatchMode

Forward = Callable[[torch.Tensor], torch.Tensor]

# A module with fewer operations is left alone.
_FEW = 3


def simplify(model: nn.Module) -> int:
    """Replaces the `forward` of modules that one operation computes, and returns their number.

    Deleting the attribute `forward` of a module undoes it.
    """
    found = {module: forward for module in model.modules() if (forward := one_operation(module)) is not None}
    for module, forward in found.items():
        module.forward = forward  # type: ignore[method-assign]
    return len(found)


@torch.inference_mode()
def one_operation(module: nn.Module) -> Forward | None:
    """A function of one operation that computes what the module does; None if there is none."""
    if next(module.children(), None) is not None or "forward" in vars(module):
        return None
    for x, candidates in _trials(module):
        try:
            with _Counter() as counter:
                expected = module(x)
        except Exception:  # Third-party code, given what it may not take.
            continue
        if not isinstance(expected, torch.Tensor) or counter.count <= _FEW:
            continue
        for candidate in candidates:
            if _close(candidate(x), expected):
                return candidate
    return None


def _trials(module: nn.Module) -> Iterator[tuple[torch.Tensor, list[Forward]]]:
    """Inputs of a module, and the functions that it may be."""
    weights = list(module.parameters())
    x = torch.linspace(-8, 8, 4 * 96, device="cpu")
    if not weights and next(module.buffers(), None) is None:
        yield x, [partial(gelu, approximate="tanh")]
    elif len(weights) == 1 and weights[0].dim() == 1 and weights[0].device.type == "cpu":
        [weight] = weights
        sizes = [value for value in vars(module).values() if isinstance(value, float)]
        ...


class _Counter(TorchDispatchMode):
    """Counts operations."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))
