"""Stopping criteria that the checkpoint sets: its EOS tokens.

A sequence also stops at the tokens in `TokenizedRequest.end_tokens` (the chat template's end of turn, and the
option `eos_token_id`), at stop strings, by the criterion in `TokenizedRequest.stopping`, and at
`max_new_tokens`.
"""

from collections.abc import Sequence

from transformers import PreTrainedModel, PreTrainedTokenizerBase


def eos_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The EOS tokens of the generation configuration, of the model's configuration and of the tokenizer."""
    special = set(tokenizer.all_special_ids)
    # A configuration that sets none has its class's default, which may be any word of this vocabulary.
    configured = {
        token
        for config in (model.config, model.config.get_text_config(decoder=True))
        for token in _listed(getattr(config, "eos_token_id", None))
        if token in special or token not in _listed(getattr(type(config), "eos_token_id", None))
    }
    generation = model.generation_config.eos_token_id if model.generation_config else None
    return frozenset([*_listed(generation), *configured, *_listed(tokenizer.eos_token_id)])


def _listed(given: int | Sequence[int] | None) -> list[int]:
    ids = [] if given is None else [given] if isinstance(given, int) else given
    return [token for token in ids if token >= 0]
