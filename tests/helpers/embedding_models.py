"""Makes tiny embedding models, their tokenizers and embedders, and the embeddings expected of them."""

from collections.abc import Callable

import numpy as np
import torch
import transformers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from engine.embedding import Embedder
from tests import tiny

TEXTS = [
    "A cat.",
    "",
    "Ünicode",
    "x",
    "A longer text, to be read in one batch with short ones.",
    "A Cat?",
    "z" * 90,
]

_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 130,
}
CONFIGS: dict[str, Callable] = tiny.CONFIGS | {
    "albert": lambda: transformers.AlbertConfig(**_SIZES, embedding_size=16),
    "bert": lambda: transformers.BertConfig(**_SIZES),
    "bloom": lambda: transformers.BloomConfig(hidden_size=32, n_layer=2, n_head=4),
    "convbert": lambda: transformers.ConvBertConfig(**_SIZES, embedding_size=32),
    "deberta": lambda: transformers.DebertaV2Config(
        **_SIZES, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=16
    ),
    "distilbert": lambda: transformers.DistilBertConfig(
        dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=130
    ),
    "fnet": lambda: transformers.FNetConfig(
        hidden_size=32, num_hidden_layers=2, intermediate_size=64, max_position_embeddings=130
    ),
    "gpt_oss": lambda: transformers.GptOssConfig(
        **_SIZES,
        num_key_value_heads=2,
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=8,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    ),
    "longrope": lambda: transformers.Phi3Config(
        **_SIZES,
        pad_token_id=tiny.PAD,
        original_max_position_embeddings=20,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 4,
            "long_factor": [4.0] * 4,
            "original_max_position_embeddings": 20,
        },
    ),
    "mistral": lambda: transformers.MistralConfig(**_SIZES, num_key_value_heads=2, sliding_window=8),
    "modernbert": lambda: transformers.ModernBertConfig(
        **_SIZES,
        local_attention=8,
        global_attn_every_n_layers=2,
        cls_token_id=1,
        sep_token_id=2,
        pad_token_id=0,
    ),
    "mpnet": lambda: transformers.MPNetConfig(**_SIZES),
    "roberta": lambda: transformers.RobertaConfig(**_SIZES),
}
# Architectures by how their texts share a batch.
BATCHINGS = {
    "packed": (
        "albert",
        "bert",
        "distilbert",
        "gpt2",
        "gpt_oss",
        "llama",
        "longrope",
        "mistral",
        "modernbert",
        "qwen3",
        "roberta",
    ),
    "padded": ("bart", "bloom", "deberta", "mpnet", "t5"),
    "equal_length": ("convbert", "fnet"),
}
DECODERS = ("bloom", "gpt2", "gpt_oss", "llama", "longrope", "mistral", "phi3", "qwen3")


def random_model(architecture: str) -> PreTrainedModel:
    """A model without a language modeling head, with random weights that tell tokens and positions apart."""
    config = CONFIGS[architecture]()
    config.update({"vocab_size": tiny.VOCABULARY, "pad_token_id": tiny.PAD})
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "norm" not in name.lower():
                weight.normal_(std=0.4)
    return model


def tokenizer(architecture: str, **kwargs) -> PreTrainedTokenizerFast:
    """A byte tokenizer; that of an encoder adds a token before and after each text."""
    fast = tiny.byte_tokenizer(None, **kwargs)
    if architecture not in DECODERS:
        around = [("<s>", tiny.BOS), ("</s>", tiny.EOS)]
        fast.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A </s>", special_tokens=around
        )
    return fast


def embedder(architecture: str, budget: int = 64) -> Embedder:
    """An embedder whose batches have few tokens, so that a few texts are several batches."""
    found = Embedder(tiny.loaded(random_model(architecture), tokenizer(architecture)))
    found.reader.budget = budget
    return found


def states_alone(made: Embedder, text: str, layer: int = -1) -> np.ndarray:
    """The hidden states that the plain model gives one text, (tokens, dim)."""
    ids = made.tokenizer(text, truncation=True, max_length=made.reader.context_length, return_tensors="pt")[
        "input_ids"
    ]
    with torch.inference_mode():
        states = made.reader.model(input_ids=ids, output_hidden_states=True).hidden_states
    return states[layer][0].numpy()


def close(found: np.ndarray, expected: np.ndarray, size: float = 1.0) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(1.0, size))
