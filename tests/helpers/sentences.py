"""A tiny sentence-transformers folder, made on the spot."""

from pathlib import Path

import torch
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from tokenizers.processors import TemplateProcessing

from tests import tiny


def save(folder: Path, size: int = 32, pooling: str = "mean") -> Path:
    """A random BERT whose vectors have so many numbers and length 1, as a folder that both libraries load."""
    config = transformers.BertConfig(
        hidden_size=size,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=32,
        max_position_embeddings=160,
        vocab_size=tiny.VOCABULARY,
        pad_token_id=tiny.PAD,
    )
    torch.manual_seed(0)
    model = transformers.BertModel(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.4)
    tokenizer = tiny.byte_tokenizer(None)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", tiny.BOS), ("</s>", tiny.EOS)]
    )
    plain = folder / "plain"
    model.save_pretrained(plain)
    tokenizer.save_pretrained(plain)
    parts = [modules.Transformer(str(plain)), modules.Pooling(size, pooling), modules.Normalize()]
    SentenceTransformer(modules=parts, device="cpu").save(str(folder / "sentences"))
    return folder / "sentences"
