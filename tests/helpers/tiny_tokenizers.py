"""Makes small tokenizers of every kind."""

import json
from collections.abc import Callable
from functools import cache

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast
from transformers.models.byt5.tokenization_byt5 import ByT5Tokenizer

SPECIALS = ["<unk>", "<s>", "</s>"]
TEXTS = [
    "It is true that the words of a text are many, and some are long.",
    "the end of it is near. it is a fact, they say; who knows? 42 or 24",
]


def _trained(tokenizer: Tokenizer, trainer: trainers.Trainer) -> Tokenizer:
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    return tokenizer


def byte_level() -> Tokenizer:
    """GPT-2, Llama 3, Qwen."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _trained(
        tokenizer,
        trainers.BpeTrainer(
            vocab_size=330, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
        ),
    )


def prepending() -> Tokenizer:
    """Llama 2, Mistral 7B, TinyLlama: a blank before the text, tokens over blanks, bytes for the unknown."""
    words = Tokenizer(models.BPE(unk_token="<unk>"))
    words.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    spare = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[*SPECIALS, *spare], show_progress=False)
    words = _trained(words, trainer)
    vocabulary = words.get_vocab()
    state = json.loads(words.to_str())
    merges = [tuple(merge) for merge in state["model"]["merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = words.normalizer
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def unigram() -> Tokenizer:
    """T5, and Japanese GPTs with its tokenizer."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    return _trained(
        tokenizer,
        trainers.UnigramTrainer(
            vocab_size=120, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False
        ),
    )


def metaspace() -> Tokenizer:
    """Newer conversions of sentencepiece's."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(vocab_size=150, special_tokens=SPECIALS, show_progress=False)
    return _trained(tokenizer, trainer)


def word_piece() -> Tokenizer:
    """BERT, and decoders that begin with it."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=SPECIALS, show_progress=False)
    return _trained(tokenizer, trainer)


KINDS: list[Callable[[], Tokenizer]] = [byte_level, prepending, unigram, metaspace, word_piece]


@cache
def _file(kind: Callable[[], Tokenizer]) -> str:
    return kind().to_str()


def made(kind: Callable[[], Tokenizer], around: str = "$A", **names) -> PreTrainedTokenizerFast:
    """A tokenizer of a kind.

    Args:
        around: what it puts around a text, "<s> $A </s>".
        names: its special tokens, or None for none.
    """
    tokenizer = Tokenizer.from_str(_file(kind))
    ids = [(name, i) for i, name in enumerate(SPECIALS)]
    tokenizer.post_processor = processors.TemplateProcessing(single=around, special_tokens=ids)
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"} | names
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)


def in_python() -> ByT5Tokenizer:
    """One that is written in Python, with bytes for tokens and an end behind each text."""
    return ByT5Tokenizer(extra_ids=0)
