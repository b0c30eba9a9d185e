"""Small random models of real architectures, made on the spot: real classes, real files, no download."""

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIALS = ["<pad>", "<s>", "</s>"]
PAD, BOS, EOS = range(3)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message.role }}]{{ message.content }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def byte_tokenizer(chat_template: str | None = CHAT_TEMPLATE, **kwargs) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer: every byte a token, so any text round-trips and lengths can be counted."""
    vocabulary = {token: i for i, token in enumerate(SPECIALS + sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"} | kwargs
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.chat_template = chat_template
    return fast


_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 512,
}
CONFIGS = {
    "gpt2": lambda: transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=512),
    "llama": lambda: transformers.LlamaConfig(**_SIZES),
    "qwen3": lambda: transformers.Qwen3Config(**_SIZES, head_dim=8),
    "phi3": lambda: transformers.Phi3Config(**_SIZES),
    "t5": lambda: transformers.T5Config(
        d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=PAD
    ),
}


def random_model(architecture: str, seed: int = 0, **changes) -> transformers.PreTrainedModel:
    """A model with random weights, spread wide enough that its answers differ and some of them end."""
    config = CONFIGS[architecture]()
    config.update(
        {"vocab_size": 259, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS} | changes
    )
    torch.manual_seed(seed)
    auto = (
        transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    )
    model = auto.from_config(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "norm" not in name:
                weight.mul_(4)
    return model


def save(
    folder: Path, architecture: str = "llama", chat_template: str | None = CHAT_TEMPLATE, **changes
) -> Path:
    """A tiny model and its tokenizer as a folder that `from_pretrained` loads."""
    random_model(architecture, **changes).save_pretrained(folder)
    byte_tokenizer(chat_template).save_pretrained(folder)
    return folder
