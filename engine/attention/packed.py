"""Packed forward passes: sequences of any lengths as one row of tokens (a varlen batch), nothing padded.

transformers looks up its attention function by name and forwards the keyword arguments of the model call to
it. The function registered here hands the attention of each layer to the `AttentionMetadata` of the pass:

- `engine.generation.forward_batch.ForwardBatch`: continuous batching over the KV cache
- `engine.attention.varlen.VarlenMetadata`: independent texts (embedding)
- `engine.scoring.tree_attention.TreeMetadata`: prompts and their candidates (scoring)
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from transformers import AttentionInterface, PreTrainedModel

from engine.attention.parameters import AttentionParameters
from engine.errors import Unsupported
from engine.model_properties import rope_parameters
from engine.module_state import model_lock

_NAME = "packed"
_LAYERS = {"full_attention", "sliding_attention"}


class AttentionMetadata(Protocol):
    """Which tokens of a packed forward pass attend to which keys and values."""

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        parameters: AttentionParameters,
    ) -> torch.Tensor:
        """Computes one layer's attention over the packed tokens.

        Args:
            layer: index of the layer.
            query: (heads, tokens, dim).
            key, value: (KV heads, tokens, dim), of the packed tokens only.

        Returns:
            (tokens, heads, value dim).
        """
        ...


def forward(
    model: PreTrainedModel,
    tokens: Sequence[int],
    positions: Sequence[int],
    metadata: AttentionMetadata,
    **kwargs: Any,
) -> Any:
    """Runs the model on packed sequences and returns its output, whose batch size is 1.

    Args:
        tokens: token ids of all sequences, concatenated.
        positions: position of each token in its own sequence.
        metadata: computes the attention.
        kwargs: passed to the model (`logits_to_keep`, say).

    Raises:
        Unsupported: the model's attention takes an input that no `AttentionMetadata` can express.
    """
    inputs = torch.tensor([tokens, positions], device=model.device)
    with model_lock(model), _packed_attention(model), torch.inference_mode():
        return model(
            input_ids=inputs[:1],
            position_ids=inputs[1:],
            use_cache=False,
            attention_metadata=metadata,
            **kwargs,
        )


def logits(
    model: PreTrainedModel,
    tokens: Sequence[int],
    positions: Sequence[int],
    metadata: AttentionMetadata,
    indices: Sequence[int],
) -> torch.Tensor:
    """Runs the model on packed sequences and returns the logits after some tokens, (indices, vocabulary).

    Args:
        tokens: token ids of all sequences, concatenated.
        positions: position of each token in its own sequence.
        metadata: computes the attention.
        indices: the tokens whose logits are wanted, as indices into `tokens`. The others' are not computed
            where the model supports `logits_to_keep`.

    Raises:
        Unsupported: the model's attention takes an input that no `AttentionMetadata` can express.
    """
    wanted = torch.tensor(indices, device=model.device)
    if model._supports_logits_to_keep():  # type: ignore[operator]
        return forward(model, tokens, positions, metadata, logits_to_keep=wanted).logits[0]
    return forward(model, tokens, positions, metadata).logits[0, wanted]


def supports_packing(model: PreTrainedModel) -> bool:
    """Whether the model's attention can be replaced, as far as its class and configuration tell.

    False for models whose layers keep a recurrent state instead of a KV cache (Mamba), add a position bias
    (T5, Bloom) or scale rotary positions by the longest sequence of the batch (dynamic RoPE).
    """
    config = model.config.get_text_config(decoder=True)
    return (
        bool(model._supports_attention_backend)
        and not model.config.is_encoder_decoder
        and not getattr(model, "_is_stateful", False)
        and set(getattr(config, "layer_types", None) or _LAYERS) <= _LAYERS
        and all(rope.get("rope_type") != "dynamic" for rope in rope_parameters(model))
    )


@contextmanager
def _packed_attention(model: PreTrainedModel) -> Iterator[None]:
    # The field itself: its setter walks all sub-configurations, which would cost time in every step.
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
    attention_metadata: AttentionMetadata | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: (1, heads, tokens, dim) → (1, tokens, heads, value dim)."""
    if attention_metadata is None or kwargs.get("position_bias") is not None:
        raise Unsupported(f"the attention of {type(module).__name__} takes no packed rows")
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    parameters = AttentionParameters(scaling, sliding_window, softcap, bool(causal), s_aux)
    layer: Any = getattr(module, "layer_idx", None)  # Not every encoder numbers its layers.
    return attention_metadata.attend(layer, query[0], key[0], value[0], parameters)[None], None


AttentionInterface.register(_NAME, _attention)
