"""Fill in the middle: the prompt that asks for what stands between two texts, by a code model's own tokens.

The forms are those of the models' papers (Bavarian et al. 2022: prefix, suffix, middle): StarCoder and
SantaCoder, Qwen-Coder and CodeGemma, DeepSeek-Coder, Code Llama.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

# Tokens before the prefix, before the suffix, and before the middle.
_FORMS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
)
# Tokens that end the middle besides the model's own: of the next file or repository, and Code Llama's own.
_ENDS = ("<|fim_pad|>", "<|file_sep|>", "<|repo_name|>", "<|file_separator|>", "<file_sep>", "▁<EOT>")
# A text behind which Code Llama's tokenizer adds no space to the next one.
_BEFORE = "\u263a"


@dataclass(frozen=True, slots=True)
class FillTokens:
    """The tokens of a tokenizer for filling in the middle.

    Attributes:
        prefix, suffix, middle: token ids, each before that part.
        ends: token ids that end the middle.
        adds_space: whether the tokenizer adds a space before a text, which the suffix must not get.
    """

    prefix: int
    suffix: int
    middle: int
    ends: frozenset[int]
    adds_space: bool

    def prompt(self, tokenizer: PreTrainedTokenizerBase, before: str, after: str) -> list[int]:
        """The token ids that ask for what stands between two texts, without special tokens around them."""

        def read(text: str) -> list[int]:
            ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            return ids

        ahead = read(_BEFORE) if self.adds_space else []
        behind = read(_BEFORE + after)[len(ahead) :] if self.adds_space else read(after)
        return [self.prefix, *read(before), self.suffix, *behind, self.middle]


def fill_tokens(tokenizer: PreTrainedTokenizerBase) -> FillTokens | None:
    """The tokens for filling in the middle; None for a tokenizer without them."""
    for form in _FORMS:
        if len(found := _known(tokenizer, form)) == len(form):
            prefix, suffix, middle = found
            ends = frozenset(_known(tokenizer, _ENDS))
            return FillTokens(prefix, suffix, middle, ends, adds_space=form[0].startswith("▁"))
    return None


def _known(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> list[int]:
    """The ids of those tokens that are in the vocabulary."""
    ids: list[Any] = [tokenizer.convert_tokens_to_ids(token) for token in tokens]
    known = zip(tokens, ids, strict=True)
    return [i for token, i in known if i is not None and tokenizer.convert_ids_to_tokens(i) == token]
