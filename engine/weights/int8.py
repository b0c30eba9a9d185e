"""Matrix products with weights and inputs in 8 bits, by the libraries that ship with torch.

Each output has a scale of its own, and so has each row of the input, which is quantized as it comes: the
scheme of LLM.int8() without its outliers (Dettmers et al., 2022, https://arxiv.org/abs/2208.07339, §2.1).
A scale for the whole input would have each answer depend on what else is in its batch. Sums are of integers
and exact.
"""

import warnings
from typing import Any

import torch

# FBGEMM takes tensors of these types only.
warnings.filterwarnings("ignore", message="torch.quantize_per_tensor.* are deprecated", category=UserWarning)

_MULTIPLY: Any = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32.default
# Rows of zeros are divided by this.
_SMALLEST = 1e-30
_LARGEST_WEIGHT = 127
# A layer whose outputs differ by more, relative to each row, stays as it is. Rounding of normally
# distributed numbers makes 0.011 of it, and 0.017 with 7 bits.
_MAX_ERROR = 0.05


class Int8Kernel:
    """A weight in 8 bits, multiplied by FBGEMM.

    Attributes:
        largest: the largest integer that a row of the input is scaled to.
        dtype: the dtype of its input and output.
    """

    largest = 127

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """Quantizes a weight (outputs, inputs) with a bias (outputs,)."""
        self.dtype = weight.dtype
        self._bias = None if bias is None else bias.float()
        weight = weight.float()
        scales = weight.abs().amax(1).clamp_(min=_SMALLEST) / _LARGEST_WEIGHT
        points = torch.zeros(len(weight), dtype=torch.int64)
        quantized = torch.quantize_per_channel(weight, scales, points, 0, torch.qint8)
        self._packed = torch.ops.quantized.linear_prepack(quantized, None)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """(..., inputs) → (..., outputs)."""
        if x.dim() == 1:
            return self(x[None])[0]
        # A NaN stays one: the product is multiplied by it.
        largest = x.abs().amax(-1, True).float().clamp(min=_SMALLEST)
        scale, point = 1 / self.largest, self.largest + 1
        product = _MULTIPLY(x / largest, scale, point, self._packed)
        scaled = product * largest if self._bias is None else torch.addcmul(self._bias, product, largest)
        return scaled.to(self.dtype)

    def unpack(self) -> torch.Tensor:
        """The weight rounded to 8 bits, (outputs, inputs) in `dtype`."""
        unpacked: torch.Tensor = torch.ops.quantized.linear_unpack(self._packed)[0].dequantize()
        return unpacked.to(self.dtype)


class Int7Kernel(Int8Kernel):
    """The same with inputs in 7 bits.

    Without VNNI, x86 CPUs add pairs of products in 16 bits, which those of 8 bits exceed.
    """

    largest = 63


def changes_little(
    kernel: Int8Kernel, weight: torch.Tensor, bias: torch.Tensor | None, x: torch.Tensor
) -> bool:
    """Whether a layer computes about the same in 8 bits: not with outliers among the numbers it reads.

    Args:
        weight, bias: (outputs, inputs) and (outputs,) or None.
        x: inputs of the layer, (..., inputs).
    """
    expected = torch.nn.functional.linear(x.float(), weight.float(), None if bias is None else bias.float())
    found = kernel(x.to(kernel.dtype)).float()
    errors = (found - expected).norm(dim=-1) / expected.norm(dim=-1).clamp(min=_SMALLEST)
    return bool(errors.mean() <= _MAX_ERROR)  # False for a NaN, too.
