"""Matrix products with a prepacked weight, by the libraries that ship with torch.

Before each product a library copies the weight into the blocks that its kernel reads. For the few rows of a
decoding step this copy takes longer than the product, so it is done once. `engine.weights.cpu` finds out
which of these kernels a machine has.
"""

from typing import Protocol

import torch

HALF_DTYPES = (torch.bfloat16, torch.float16)


class Kernel(Protocol):
    """A linear layer with a prepacked weight (outputs, inputs) and a bias (outputs,).

    Attributes:
        dtype: the dtype of its input and output.
    """

    dtype: torch.dtype

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None: ...

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(..., inputs) → (..., outputs)."""
        ...

    def unpack(self) -> torch.Tensor:
        """The weight before prepacking, (outputs, inputs) in `dtype`."""
        ...


class TorchKernel:
    """A weight that is not prepacked, multiplied by torch: works on every machine."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.dtype = weight.dtype
        self._weight, self._bias = weight, bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(..., inputs) → (..., outputs)."""
        return torch.nn.functional.linear(x, self._weight, self._bias)

    def unpack(self) -> torch.Tensor:
        """The weight, (outputs, inputs) in `dtype`."""
        return self._weight


class OneDnnKernel:
    """A weight in oneDNN's blocks, in its own dtype."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.dtype = weight.dtype
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight)
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(..., inputs) → (..., outputs)."""
        return torch.ops.mkldnn._linear_pointwise.default(x, self._weight, self._bias, "none", [], "")

    def unpack(self) -> torch.Tensor:
        """The weight before prepacking, (outputs, inputs) in `dtype`."""
        return self._weight.to_dense()


class FbgemmKernel:
    """A weight stored as float16 in FBGEMM's blocks and multiplied in float32.

    Decoding small batches is memory-bound: float16 weights halve the bytes that a step reads.
    """

    dtype = torch.float32

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._packed = torch.ops.quantized.linear_prepack_fp16(weight, bias)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(..., inputs) → (..., outputs)."""
        if x.dim() == 1:
            return self(x[None])[0]
        return torch.ops.quantized.linear_dynamic_fp16.default(x, self._packed)

    def unpack(self) -> torch.Tensor:
        """The weight rounded to float16, (outputs, inputs) in float32."""
        return torch.ops.quantized.linear_unpack_fp16(self._packed)[0]
