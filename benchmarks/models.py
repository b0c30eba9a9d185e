"""Real architectures with random weights, and a tokenizer of words."""

import copy
from collections.abc import Mapping
from types import MappingProxyType

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from engine.loading import Loaded

# What fills short rows where a peer asks for it; no text has it.
PAD = "w0"
# SmolLM2-135M's and GPT-2 124M's published configurations, without an end token: lengths are forced.
CONFIGS = {
    "L": lambda: LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        max_position_embeddings=8192,
        rope_theta=100000,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    ),
    "S": lambda: GPT2Config(bos_token_id=None, eos_token_id=None),
}


def load(name: str, dtype: torch.dtype, changes: Mapping[str, int] = MappingProxyType({})) -> Loaded:
    """A model of `CONFIGS` with random weights, the same at every call, and its tokenizer.

    Args:
        changes: other sizes than the configuration's; fewer layers, say.
    """
    config = CONFIGS[name]()
    config.update(changes)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    model.config.dtype = dtype
    model.generation_config.pad_token_id = 0
    return Loaded(model, _tokenizer(config.vocab_size), config.max_position_embeddings)


def twin(loaded: Loaded) -> Loaded:
    """The same weights in a model object of its own, for what changes the object it is given."""
    return Loaded(copy.deepcopy(loaded.model), loaded.tokenizer, loaded.context_length)


def weights(model: PreTrainedModel) -> int:
    """How many weights a token is multiplied with: all but positions; a tied embedding is the output head."""
    positions = sum(weight.numel() for name, weight in model.named_parameters() if ".wpe." in name)
    return model.num_parameters() - positions


def _tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """Words w0, w1, …: each token survives the way to text and back."""
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(vocabulary)}, unk_token=PAD))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    tokenizer.chat_template = "{{ messages | map(attribute='content') | join(' ') }}"
    return tokenizer
