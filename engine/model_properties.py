"""Properties of a model that its class and configuration tell: vocabulary, start token, rotary positions."""

from typing import Any, cast

from transformers import PreTrainedModel

from engine.errors import Unsupported


def vocabulary_size(model: PreTrainedModel) -> int:
    """Number of token ids that the model's embedding has."""
    try:
        return len(cast(Any, model.get_input_embeddings()).weight)
    except (AttributeError, NotImplementedError):  # Not every class says where its embeddings are.
        return int(model.config.get_text_config(decoder=True).vocab_size)


def decoder_start(model: PreTrainedModel) -> int:
    """The token that an encoder-decoder model's answers begin with, as transformers' `generate` finds it.

    Raises:
        Unsupported: the checkpoint names none.
    """
    settings = model.generation_config
    for token in (settings.decoder_start_token_id, settings.bos_token_id):
        if token is not None:
            return int(token)
    raise Unsupported("the model names no decoder_start_token_id: set it in its generation configuration")


def rope_parameters(model: PreTrainedModel) -> list[dict[str, Any]]:
    """The configuration's RoPE parameters, and those of each layer type where they differ."""
    whole = getattr(model.config.get_text_config(decoder=True), "rope_parameters", None) or {}
    return [whole, *(part for part in whole.values() if isinstance(part, dict))]


def longrope_threshold(model: PreTrainedModel) -> int | None:
    """The `original_max_position_embeddings` of a longrope model (Phi-3), in tokens; None for other models.

    transformers picks the rotary frequencies of a whole forward pass by its longest sequence: a sequence
    within this length would get wrong ones beside a sequence beyond it.
    """
    lengths = (
        rope.get("original_max_position_embeddings")
        for rope in rope_parameters(model)
        if rope.get("rope_type") == "longrope"
    )
    return min(filter(None, lengths), default=None)


def max_batch_length(model: PreTrainedModel, context_length: int | None) -> int | None:
    """The most tokens of sequences that share a batch whatever their lengths; None if unbounded."""
    return min(filter(None, (context_length, longrope_threshold(model))), default=None)


def padding_position(model: PreTrainedModel) -> int | None:
    """The position that RoBERTa and its relatives reserve for padding, after which they number tokens."""
    for module in model.modules():
        place = getattr(module, "padding_idx", None)
        if isinstance(place, int) and hasattr(module, "position_embeddings"):
            return place
    return None


def longest_text(model: PreTrainedModel) -> int | None:
    """The most tokens of a text that the model has positions for; None if unbounded."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 0
    reserved = padding_position(model)
    return positions - (0 if reserved is None else reserved + 1) if positions > 0 else None
