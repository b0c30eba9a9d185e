"""Small models of real architectures, made on the spot: real classes, real files, no download."""

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from engine.backends.local import LocalEngine
from engine.loading import Loaded

SPECIALS = ["<pad>", "<s>", "</s>"]
PAD, BOS, EOS = range(3)
VOCABULARY = len(SPECIALS) + 256
# As `eos_token_id`: so many tokens end an answer that a good part of a random model's answers do end.
ENDS = list(range(EOS, VOCABULARY, 12))
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
    "gemma": lambda: transformers.GemmaConfig(**_SIZES, head_dim=8),
    "phi3": lambda: transformers.Phi3Config(**_SIZES),
    "mistral": lambda: transformers.MistralConfig(**_SIZES, sliding_window=16),
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(
        **_SIZES, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16
    ),
    "bloom": lambda: transformers.BloomConfig(hidden_size=32, n_layer=2, n_head=4),
    "t5": lambda: transformers.T5Config(
        d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=PAD
    ),
    "bart": lambda: transformers.BartConfig(
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=512,
        decoder_start_token_id=EOS,
        forced_eos_token_id=None,
    ),
}

# Kinds of layers that are turned differently; its random models repeat themselves, and end by no token.
LAYERED = {
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **_SIZES, head_dim=8, sliding_window=16, layer_types=["sliding_attention", "full_attention"]
    ),
}

# Those whose rows cannot be in flight: a bias for the distance, or an encoder.
BATCHED = ["bloom", "t5", "bart"]
IN_FLIGHT = [name for name in CONFIGS if name not in BATCHED]


def random_model(architecture: str, seed: int = 0, **changes) -> PreTrainedModel:
    """A model with random weights, spread wide enough that its answers differ."""
    config = (CONFIGS | LAYERED)[architecture]()
    config.update(
        {"vocab_size": VOCABULARY, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS} | changes
    )
    torch.manual_seed(seed)
    auto = (
        transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    )
    model = auto.from_config(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "norm" not in name:
                weight.normal_(std=0.6)
    return model


def scripted_model(logits: torch.Tensor) -> transformers.LlamaForCausalLM:
    """A Llama whose next token depends on the last one alone.

    Args:
        logits: (vocabulary, vocabulary); row i is what the model gives after token i.
    """
    size = len(logits)
    config = transformers.LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=1,
        num_hidden_layers=1,
        num_attention_heads=1,
        head_dim=2,
        max_position_embeddings=512,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        rms_norm_eps=0.0,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.model.layers.parameters():
            weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        # The last norm multiplies what one token's embedding is by the root of the hidden size.
        model.lm_head.weight.copy_(logits.T / size**0.5)
    return model


def spelling_model(text: str) -> transformers.LlamaForCausalLM:
    """A Llama that answers "]", the end of every prompt by `CHAT_TEMPLATE`, with a text and the end token.

    Each byte of the text may occur in it once, for the model sees no more than the last byte.
    """
    start, *letters = byte_tokenizer()(f"]{text}")["input_ids"]
    assert len({start, *letters}) == 1 + len(letters), f"{text!r} has a byte twice"
    logits = torch.zeros(VOCABULARY, VOCABULARY)
    for token, following in zip([start, *letters], [*letters, EOS], strict=True):
        logits[token, following] = 10
    return scripted_model(logits)


def loaded(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast | None = None) -> Loaded:
    """A model and a byte tokenizer as `engine.loading.load` returns them."""
    context_length = getattr(model.config, "max_position_embeddings", None)  # XLNet says -1: it has no bound.
    return Loaded(
        model,
        tokenizer or byte_tokenizer(),
        context_length if context_length and context_length > 0 else None,
    )


def engine(architecture: str = "llama", **changes) -> LocalEngine:
    """An engine that answers with a random model; with one end token, its tokenizer names the same."""
    end = changes.get("eos_token_id", EOS)
    tokenizer = byte_tokenizer(eos_token=SPECIALS[end] if end in (PAD, BOS) else "</s>")
    return LocalEngine(loaded(random_model(architecture, **changes), tokenizer))


def save(
    folder: Path, architecture: str = "llama", chat_template: str | None = CHAT_TEMPLATE, **changes
) -> Path:
    """A tiny model and its tokenizer as a folder that `from_pretrained` loads."""
    random_model(architecture, **changes).save_pretrained(folder)
    byte_tokenizer(chat_template).save_pretrained(folder)
    return folder
