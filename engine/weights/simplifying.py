"""Small modules in fewer operations: RMS norms and GELU, which transformers writes as seven or eight each.

For the few tokens of a decoding step, each operation costs its start. Which modules are these is seen by what
they compute, not by their names.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import nn
from torch.nn.functional import gelu

Forward = Callable[[torch.Tensor], torch.Tensor]

# The largest relative error of a function that takes a module's place, in units of its dtype's rounding.
_ROUNDINGS = 2


def simplify(model: nn.Module) -> None:
    """Replaces the `forward` of RMS norms and GELUs on a CPU. Deleting that attribute undoes it."""
    found = {module: forward for module in model.modules() if (forward := simpler(module)) is not None}
    for module, forward in found.items():
        module.forward = forward


@torch.no_grad()
def simpler(module: nn.Module) -> Forward | None:
    """A function of few operations that computes what the module does; None if there is none.

    Modules that have a function of torch already are left alone.
    """
    if type(module).__module__.startswith("torch.") or next(module.children(), None) is not None:
        return None
    if "forward" in vars(module) or next(module.buffers(), None) is not None:
        return None
    for x, candidate in _candidates(module):
        try:
            expected = module(x)
        except Exception:  # Third-party code, given what it may not take.
            return None
        if _equal(candidate(x), expected):
            return candidate
    return None


def _candidates(module: nn.Module) -> Iterator[tuple[torch.Tensor, Forward]]:
    """Functions that a module may be, and an input to find out."""
    weights = list(module.parameters())
    if not weights:
        yield torch.linspace(-8, 8, 256, device="cpu"), partial(gelu, approximate="tanh")
    elif len(weights) == 1 and weights[0].dim() == 1 and weights[0].device.type == "cpu":
        [weight] = weights
        x = torch.linspace(-3, 2, 3 * len(weight), device="cpu").sin().view(1, 3, -1)
        # The rows' sizes are such that the epsilon counts in some.
        x = (x * torch.tensor([[1.0], [1e-2], [1e-4]], device="cpu")).to(weight.dtype)
        own = module.forward
        for eps in {value for value in vars(module).values() if isinstance(value, float)}:
            yield x, partial(_rms_norm, own, weight, torch.full((1, 1, 1), eps, device="cpu"))


def _rms_norm(own: Forward, weight: torch.Tensor, eps: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Root mean square normalization, summed in float32 and rounded twice in half precision, as Llama does.

    Args:
        own: computes what has another dtype than the weight.
        eps: (1, 1, 1) float32.
        x: (…, dim).
    """
    if x.dtype != weight.dtype:
        return own(x)
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    scale = torch.addcmul(eps, norm, norm, value=1 / x.shape[-1]).rsqrt_()
    return (x * scale).to(x.dtype) * weight


def _equal(found: torch.Tensor, expected: object) -> bool:
    """Whether two tensors are equal up to rounding, row by row."""
    if not isinstance(expected, torch.Tensor) or found.shape != expected.shape:
        return False
    if found.dtype != expected.dtype:
        return False
    far = torch.linalg.vector_norm((found - expected).float(), dim=-1)
    size = torch.linalg.vector_norm(expected.float(), dim=-1)
    return bool((far <= _ROUNDINGS * torch.finfo(found.dtype).eps * size).all())  # False for NaN, too.
