"""Variable-length (varlen) attention: independent texts, packed into one forward pass (embedding)."""

from collections.abc import Sequence

import torch
from torch.nn.functional import scaled_dot_product_attention

from engine.attention.parameters import AttentionParameters, attention_mask


class VarlenMetadata:
    """Attention metadata of independent texts: each token attends within its own text.

    Args:
        lengths: number of tokens of each text, in the order in which they are packed.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = list(lengths)

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        parameters: AttentionParameters,
    ) -> torch.Tensor:
        """Computes one layer's attention, text by text.

        Args:
            query: (heads, tokens, dim).
            key, value: (KV heads, tokens, dim).

        Returns:
            (tokens, heads, value dim).
        """
        outputs = []
        for q, k, v in zip(*(part.split(self.lengths, dim=1) for part in (query, key, value)), strict=True):
            q, k, v = q[None], k[None], v[None]
            length = q.shape[2]
            full = (parameters.sliding_window or length) >= length
            if parameters.standard and parameters.causal and full:
                # is_causal needs no mask tensor: a quarter less time, half on long texts.
                output = scaled_dot_product_attention(
                    q, k, v, is_causal=True, scale=parameters.scale, enable_gqa=True
                )
            else:
                output = parameters.attend(q, k, v, attention_mask(length, k.shape[2], parameters, q))
            outputs.append(output[0].transpose(0, 1))
        return torch.cat(outputs)
