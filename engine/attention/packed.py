"""Several sequences of any lengths in one forward pass, as one row of tokens: nothing is padded.

transformers lets an attention function of one's own stand in for its own, by name, and hands it the keyword
arguments that the model was called with. Ours gets a plan: who attends to what.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from engine.errors import Unsupported

_NAME = "packed"
_LAYERS = {"full_attention", "sliding_attention"}


@dataclass(frozen=True, slots=True)
class Scoring:
    """How a layer scores a key for a query, apart from who may see whom.

    Attributes:
        scale: what the product of query and key is multiplied with.
        window: a token sees itself and the `window` - 1 before it; None: all before it.
        softcap: scores are squeezed into ±softcap by a tanh; None: left alone.
        causal: False where a token also sees those behind it (encoders).
        sinks: (heads,) the score of a key that all see and that has no value (gpt-oss); None: there is none.
    """

    scale: float | None
    window: int | None
    softcap: float | None
    causal: bool
    sinks: torch.Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether the scores are those that torch's own attention computes."""
        return self.softcap is None and self.sinks is None

    def attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Attention in which a group of heads shares its keys: they are so many more queries, never copies.

        Args:
            query: (batch, heads, tokens, dim).
            key, value: (batch, key heads, keys, dim); heads is a multiple of key heads.
            mask: what to add to the scores, (batch or 1, 1, tokens or 1, keys); None: nothing.

        Returns:
            (batch, heads, tokens, value dim).
        """
        batch, heads, tokens, dim = query.shape
        groups = heads // key.shape[1]
        if self.plain and tokens > 1 and query.device.type == "cpu":
            # Reads shared keys by itself, without a mask for each head; on a GPU that takes a slow kernel.
            return scaled_dot_product_attention(
                query, key, value, attn_mask=mask, scale=self.scale, enable_gqa=True
            )
        query = query.reshape(batch, -1, groups * tokens, dim)
        if mask is not None and mask.shape[2] > 1:
            mask = mask.repeat(1, 1, groups, 1)
        if self.plain:
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


class Plan(Protocol):
    """Who attends to what in one forward pass."""

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scoring: Scoring
    ) -> torch.Tensor:
        """The attention of one layer over a packed row.

        Args:
            query: (heads, tokens, dim).
            key, value: (key heads, tokens, dim), of these tokens alone.

        Returns:
            (tokens, heads, value dim).
        """
        ...


def forward(
    model: PreTrainedModel, tokens: Sequence[int], positions: Sequence[int], plan: Plan, **kwargs: Any
) -> Any:
    """The model's output for one packed row; `kwargs` go to the model (`logits_to_keep`, say).

    Args:
        tokens: token ids of all sequences, one behind the other.
        positions: each token's place in its own sequence.

    Raises:
        Unsupported: attention that no plan can express.
    """
    row = torch.tensor([tokens, positions], device=model.device)
    with alone(model), _packed(model), torch.inference_mode():
        return model(input_ids=row[:1], position_ids=row[1:], use_cache=False, plan=plan, **kwargs)


def logits(
    model: PreTrainedModel,
    tokens: Sequence[int],
    positions: Sequence[int],
    plan: Plan,
    places: Sequence[int],
) -> torch.Tensor:
    """The model's logits behind some tokens of a packed row, (places, vocabulary).

    Args:
        places: where these tokens are in the row; others cost no logits, where the model can be told so.

    Raises:
        Unsupported: as `forward`.
    """
    wanted = torch.tensor(places, device=model.device)
    if model._supports_logits_to_keep():  # type: ignore[operator]
        return forward(model, tokens, positions, plan, logits_to_keep=wanted).logits[0]
    return forward(model, tokens, positions, plan).logits[0, wanted]


def packs(model: PreTrainedModel) -> bool:
    """Whether this model's attention can be replaced, as far as its class and configuration tell.

    Not where a layer keeps a state instead of keys (Mamba), adds a bias for the distance (T5, Bloom) or turns
    its positions by the longest sequence of the batch.
    """
    config = model.config.get_text_config(decoder=True)
    return (
        bool(model._supports_attention_backend)
        and not model.config.is_encoder_decoder
        and not getattr(model, "_is_stateful", False)
        and set(getattr(config, "layer_types", None) or _LAYERS) <= _LAYERS
        and all(rope.get("rope_type") != "dynamic" for rope in _ropes(model))
    )


def switch(model: PreTrainedModel) -> int | None:
    """The length beyond which a longrope model (Phi-3) turns the positions of a whole pass another way."""
    lengths = (
        rope.get("original_max_position_embeddings")
        for rope in _ropes(model)
        if rope.get("rope_type") == "longrope"
    )
    return min(filter(None, lengths), default=None)


def _ropes(model: PreTrainedModel) -> list[dict[str, Any]]:
    """How a model turns its positions, as transformers' configurations have it; and for kinds of layers."""
    whole = getattr(model.config.get_text_config(decoder=True), "rope_parameters", None) or {}
    return [whole, *(part for part in whole.values() if isinstance(part, dict))]


_locks: WeakKeyDictionary[torch.nn.Module, threading.RLock] = WeakKeyDictionary()
_locking = threading.Lock()


def alone(model: torch.nn.Module) -> threading.RLock:
    """The lock that each forward pass holds: one for a model and all its parts.

    A packed pass changes for its time how the model attends, and a module may keep what it computed last.
    """
    with _locking:
        if model not in _locks:
            parts = list(model.modules())
            lock = next((_locks[part] for part in parts if part in _locks), None) or threading.RLock()
            _locks.update(dict.fromkeys(parts, lock))
        return _locks[model]


@contextmanager
def _packed(model: PreTrainedModel) -> Iterator[None]:
    # The field itself: its setter walks the sub-configurations, in each step of a generation.
    config = model.config.get_text_config(decoder=True)
    own = config._attn_implementation_internal
    config._attn_implementation_internal = _NAME
    try:
        yield
    finally:
        config._attn_implementation_internal = own


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    s_aux: torch.Tensor | None = None,
    plan: Plan | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls for attention: (1, heads, tokens, dim) → (1, tokens, heads, value dim)."""
    if plan is None or kwargs.get("position_bias") is not None:
        raise Unsupported(f"the attention of {type(module).__name__} takes no packed rows")
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    scoring = Scoring(scaling, sliding_window, softcap, bool(causal), s_aux)
    layer: Any = getattr(module, "layer_idx", None)  # Not every encoder numbers its layers.
    return plan.attend(layer, query[0], key[0], value[0], scoring)[None], None


AttentionInterface.register(_NAME, _attention)


class Texts:
    """A plan for texts that stand alone: each token sees those of its own text.

    Args:
        lengths: tokens of each text, in the order in which they are packed.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = list(lengths)

    def attend(
        self, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scoring: Scoring
    ) -> torch.Tensor:
        """See `Plan`."""
        outputs = []
        for q, k, v in zip(*(part.split(self.lengths, dim=1) for part in (query, key, value)), strict=True):
            q, k, v = q[None], k[None], v[None]
            if scoring.plain and scoring.causal and (scoring.window or q.shape[2]) >= q.shape[2]:
                # Without a mask to make and to read: a fourth less time, half on long texts.
                output = scaled_dot_product_attention(
                    q, k, v, is_causal=True, scale=scoring.scale, enable_gqa=True
                )
            else:
                output = scoring.attend(q, k, v, visible(q.shape[2], k.shape[2], scoring, q))
            outputs.append(output[0].transpose(0, 1))
        return torch.cat(outputs)


def visible(tokens: int, keys: int, scoring: Scoring, like: torch.Tensor) -> torch.Tensor | None:
    """The mask of the last `tokens` of a sequence over its `keys`: 0 or -inf; None where all is seen.

    Args:
        like: has the dtype and device the mask is to have.

    Returns:
        (1, 1, tokens, keys).
    """
    window = scoring.window if scoring.window is not None and scoring.window < keys else None
    if window is None and (not scoring.causal or tokens == 1):
        return None
    distance = torch.arange(keys - tokens, keys, device=like.device)[:, None] - torch.arange(
        keys, device=like.device
    )
    hidden = distance < 0 if scoring.causal else torch.zeros_like(distance, dtype=torch.bool)
    if window is not None:
        hidden |= distance.abs() >= window
    mask = torch.zeros(1, 1, tokens, keys, dtype=like.dtype, device=like.device)
    return mask.masked_fill_(hidden, -torch.inf)
