"""Makes tiny models with a classification head, their folders, and the numbers expected of them."""

import copy
from pathlib import Path

import torch
import transformers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests import tiny
from tests.helpers.embedding_models import CONFIGS, DECODERS

LABELS = ["good", "bad", "neither"]
# Short and long ones, empty ones, and pairs that differ in one of their texts only.
TEXTS: list[str | tuple[str, str]] = [
    "A cat.",
    ("Where is the cat?", "On the mat, as ever, and it will not move."),
    ("Where is the cat?", ""),
    "A longer text, to be read in one batch with short ones.",
    ("", "x"),
    ("Ünicode", "Where is the cat?"),
    "z" * 90,
]


def random_model(architecture: str, labels: int = 3, **changes) -> PreTrainedModel:
    """A model with random weights that tell tokens, positions and the two texts of a pair apart."""
    config = CONFIGS[architecture]()
    config.update({"vocab_size": tiny.VOCABULARY, "pad_token_id": tiny.PAD, "eos_token_id": tiny.EOS})
    config.num_labels = labels
    if labels == len(LABELS):
        config.id2label = dict(enumerate(LABELS))
    config.update(changes)
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "norm" not in name.lower():
                weight.normal_(std=0.3)
    return model


def tokenizer(architecture: str, **kwargs) -> PreTrainedTokenizerFast:
    """A byte tokenizer; that of an encoder adds tokens around texts and pairs."""
    fast = tiny.byte_tokenizer(kwargs.pop("chat_template", None), **kwargs)
    if architecture not in DECODERS:
        fast.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A </s>",
            pair="<s> $A </s> $B:1 </s>:1" if architecture not in ("bart", "t5") else "<s> $A $B </s>",
            special_tokens=[("<s>", tiny.BOS), ("</s>", tiny.EOS)],
        )
    return fast


def save(folder: Path, architecture: str = "bert", labels: int = 3, **changes) -> Path:
    """A tiny model and its tokenizer as a folder."""
    template = changes.pop("chat_template", None)
    random_model(architecture, labels, **changes).save_pretrained(folder)
    tokenizer(architecture, chat_template=template).save_pretrained(folder)
    return folder


def logits_alone(model: PreTrainedModel, fast: PreTrainedTokenizerFast, texts: list) -> torch.Tensor:
    """The logits that transformers' own model gives each text by itself, (texts, labels)."""
    untouched = copy.deepcopy(model)
    found = []
    for text in texts:
        # As a batch of one: alone, the tokenizer takes an empty second text for none.
        given = fast(*[[one] for one in ([text] if isinstance(text, str) else text)], return_tensors="pt")
        if "token_type_ids" not in untouched.forward.__code__.co_varnames:
            given.pop("token_type_ids", None)
        with torch.inference_mode():
            found.append(untouched(**given).logits[0])
    return torch.stack(found)
