"""Matrix products whose weight is laid out once, by the libraries that torch brings.

A matrix product first copies a weight into the blocks that its kernel reads. For the few rows that are live
in a generation it takes longer than the product. Which of these a machine has, `machine` finds out.
"""

from typing import Protocol

import torch

HALF = (torch.bfloat16, torch.float16)


class Kernel(Protocol):
    """A weight (outputs, inputs) and a bias (outputs,), laid out.

    Attributes:
        dtype: of what it reads and makes.
    """

    dtype: torch.dtype

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None: ...

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(..., inputs) → (..., outputs)."""
        ...

    def dense(self) -> torch.Tensor:
        """(outputs, inputs) the weight as it was, in `dtype`."""
        ...


class Dense:
    """A weight as it is: what every machine multiplies."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.dtype = weight.dtype
        self._weight, self._bias = weight, bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See `Kernel`."""
        return torch.nn.functional.linear(x, self._weight, self._bias)

    def dense(self) -> torch.Tensor:
        """See `Kernel`."""
        return self._weight


class OneDnn:
    """A weight in oneDNN's blocks, in its own dtype."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.dtype = weight.dtype
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight)
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See `Kernel`."""
        return torch.ops.mkldnn._linear_pointwise.default(x, self._weight, self._bias, "none", [], "")

    def dense(self) -> torch.Tensor:
        """See `Kernel`."""
        return self._weight.to_dense()


class Fbgemm:
    """A weight kept in float16 and multiplied in float32, in FBGEMM's blocks.

    A step of few rows takes as long as the weights take to be read: these are half as many bytes.
    """

    dtype = torch.float32

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._packed = torch.ops.quantized.linear_prepack_fp16(weight, bias)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """See `Kernel`."""
        if x.dim() == 1:
            return self(x[None])[0]
        return torch.ops.quantized.linear_dynamic_fp16.default(x, self._packed)

    def dense(self) -> torch.Tensor:
        """See `Kernel`."""
        return torch.ops.quantized.linear_unpack_fp16(self._packed)[0]
