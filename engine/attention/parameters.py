"""The attention of one layer: its parameters, the attention product and its mask."""

from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True, slots=True)
class AttentionParameters:
    """How a layer computes attention scores; which tokens are visible is up to the mask.

    Attributes:
        scale: factor of the query-key product; None: 1 / sqrt(dim).
        sliding_window: a token sees itself and the `sliding_window` - 1 before it; None: all before it.
        softcap: scores are squashed to ±softcap by a tanh; None: they are not.
        causal: False where a token also sees the tokens after it (encoders).
        sinks: (heads,) attention sinks, scores of a key without a value that every token sees (gpt-oss).
    """

    scale: float | None
    sliding_window: int | None
    softcap: float | None
    causal: bool
    sinks: torch.Tensor | None = None

    @property
    def standard(self) -> bool:
        """Whether torch's `scaled_dot_product_attention` computes these scores."""
        return self.softcap is None and self.sinks is None

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Grouped-query attention, without expanding the keys and values to all heads.

        Query heads that share a KV head are folded into the query length.

        Args:
            query: (batch, heads, tokens, dim).
            key, value: (batch, KV heads, keys, dim); heads is a multiple of KV heads.
            mask: added to the scores, (batch or 1, 1, tokens or 1, keys); None: every key is visible.

        Returns:
            (batch, heads, tokens, value dim).
        """
        batch, heads, tokens, dim = query.shape
        groups = heads // key.shape[1]
        if self.standard and tokens > 1 and query.device.type == "cpu":
            # Reads shared keys without a mask for each head; on a GPU, enable_gqa picks a slow kernel.
            return scaled_dot_product_attention(
                query, key, value, attn_mask=mask, scale=self.scale, enable_gqa=True
            )
        query = query.reshape(batch, -1, groups * tokens, dim)
        if mask is not None and mask.shape[2] > 1:
            mask = mask.repeat(1, 1, groups, 1)
        if self.standard:
            output = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=self.scale)
        else:
            scores = torch.matmul(query, key.transpose(2, 3)) * (self.scale or dim**-0.5)
            if self.softcap is not None:
                scores = torch.tanh(scores / self.softcap) * self.softcap
            scores = scores if mask is None else scores + mask
            if self.sinks is not None:
                sinks = self.sinks.view(1, -1, groups, 1).repeat_interleave(tokens, 2)
                scores = torch.cat([scores, sinks.expand(*scores.shape[:-1], 1).to(scores.dtype)], -1)
            weights = scores.softmax(-1, dtype=torch.float32)[..., : key.shape[2]]
            output = torch.matmul(weights.to(value.dtype), value)
        return output.reshape(batch, heads, tokens, -1)


def attention_mask(
    tokens: int, keys: int, parameters: AttentionParameters, like: torch.Tensor
) -> torch.Tensor | None:
    """The mask of the last `tokens` of a sequence over its `keys`; None where every key is visible.

    Args:
        like: a tensor with the dtype and device of the mask.

    Returns:
        (1, 1, tokens, keys): 0 where a key is visible, -inf where it is not.
    """
    window = parameters.sliding_window
    if window is not None and window >= keys:
        window = None
    if window is None and (not parameters.causal or tokens == 1):
        return None
    distance = torch.arange(keys - tokens, keys, device=like.device)[:, None] - torch.arange(
        keys, device=like.device
    )
    hidden = distance < 0 if parameters.causal else torch.zeros_like(distance, dtype=torch.bool)
    if window is not None:
        hidden |= distance.abs() >= window
    mask = torch.zeros(1, 1, tokens, keys, dtype=like.dtype, device=like.device)
    return mask.masked_fill_(hidden, -torch.inf)
