"""The tokens that end an answer, whoever names them."""

from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase


def of(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Those of the generation settings, of the model's configuration and of the tokenizer."""
    special = set(tokenizer.all_special_ids)
    # A configuration that names none has its class's, which may be any word here.
    named = {
        token
        for config in (model.config, model.config.get_text_config(decoder=True))
        for token in _listed(getattr(config, "eos_token_id", None))
        if token in special or token not in _listed(getattr(type(config), "eos_token_id", None))
    }
    generation = model.generation_config.eos_token_id if model.generation_config else None
    return frozenset([*_listed(generation), *named, *_listed(tokenizer.eos_token_id)])


def _listed(given: int | Sequence[int] | None) -> list[int]:
    ids = [] if given is None else [given] if isinstance(given, int) else given
    return [token for token in ids if token >= 0]
