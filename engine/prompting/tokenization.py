"""Tokenizes long texts in cached sections, and finds the special tokens that a tokenizer adds to a text."""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

# Characters of a section, and of the context in which a border between sections is tested.
_SECTION, _CONTEXT = 1024, 48
# Borders that are tested before the rest of the text becomes one section.
_MAX_TRIES = 8
# A growing conversation is tokenized anew only from where it has changed.
_CACHED_SECTIONS = 1024
# Texts with many endings, whose beginnings are kept.
_CACHED_TEXTS = 16
# Where a token ends in nearly every vocabulary.
_BORDER = re.compile(r"(?<=[a-z]) (?=[A-Za-z])")


class SectionTokenizer:
    """Tokenizes texts in time linear in their length, by splitting long ones where a token surely ends.

    Args:
        encode: tokenizes a text without adding special tokens.
        backend: the tokenizer behind `encode`; None if unknown, and then texts are not split.
        added_tokens: matches the added tokens, at which the tokenizer splits a text first.
    """

    def __init__(
        self, encode: Callable[[str], list[int]], backend: Tokenizer | None, added_tokens: re.Pattern[str]
    ) -> None:
        self._encode = encode
        self._backend = backend
        self._added_tokens = added_tokens
        self._border_cache = lru_cache(_CACHED_SECTIONS)(self._is_token_border)
        self._encode_cached = lru_cache(_CACHED_SECTIONS)(lambda text: tuple(encode(text)))
        self._begun_cache = lru_cache(_CACHED_TEXTS)(self._begun)
        self._separate_cache = lru_cache(_CACHED_SECTIONS)(self._always_separate)

    def __call__(self, text: str, ending: str = "") -> list[int]:
        """The token ids of a text, the same as if it were not split.

        Args:
            ending: the end of the text. Of a text with many endings, the beginning up to its last added token
                is tokenized once, and the rest once for all texts that end alike.
        """
        if ending:
            begun, rest = self._begun_cache(text)
            if begun and len(rest + ending) <= _SECTION:
                return [*begun, *self._encode_cached(rest + ending)]
            text += ending
        if self._backend is None or len(text) <= 2 * _SECTION:
            return self._encode(text)
        *sections, last = self._split(text)
        return [token for section in sections for token in self._encode_cached(section)] + self._encode(last)

    def _split(self, text: str) -> Iterator[str]:
        start = 0
        while start + _SECTION < len(text):
            end = self._section_end(text, start + _SECTION)
            yield text[start:end]
            start = end
        yield text[start:]

    def _section_end(self, text: str, start: int) -> int:
        """The first position from `start` on where a token surely ends; else the end of the text."""
        stop = start + 2 * _SECTION
        for pattern in (_BORDER, self._added_tokens):
            for found in islice(pattern.finditer(text, start, stop), _MAX_TRIES):
                place = found.start()
                if self._border_cache(text[place - _CONTEXT : place], text[place : place + _CONTEXT]):
                    return place
        return len(text)

    def _begun(self, text: str) -> tuple[list[int], str]:
        """The token ids before the last added token, if one surely ends there, and the text from there on."""
        *_, last = None, *self._added_tokens.finditer(text)
        if last is None or not self._separate_cache(last[0]):
            return [], text
        before, rest = text[: last.start()], text[last.start() :]
        if not self._border_cache(before[-_CONTEXT:], rest[:_CONTEXT]):
            return [], text
        return self(before), rest

    def _always_separate(self, name: str) -> bool:
        """Whether an added token is one token wherever a text spells it."""
        tokens = self._backend.get_added_tokens_decoder().values() if self._backend else ()
        inside = any(name in token.content[1:] for token in tokens)
        return not inside and any(token.content == name and not token.single_word for token in tokens)

    def _is_token_border(self, before: str, after: str) -> bool:
        """Whether a token ends between two texts, by the tokenizer's result and by its pre-tokenizer."""
        if self._encode(before) + self._encode(after) != self._encode(before + after):
            return False
        if self._added_tokens.match(after):
            return True
        rule = self._backend.pre_tokenizer if self._backend else None
        normalizer = self._backend.normalizer if self._backend else None
        if rule is None or (normalizer and normalizer.normalize_str(before + after) != before + after):
            return False
        return any(start == len(before) for _, (start, _) in rule.pre_tokenize_str(before + after))


def special_tokens_around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens that a tokenizer adds before and after a text."""
    for text in ("a", "A", "1", "."):
        bare = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        whole = tokenizer(text, verbose=False)["input_ids"]
        for start in range(len(whole) - len(bare) + 1):
            if bare and whole[start : start + len(bare)] == bare:
                return whole[:start], whole[start + len(bare) :]
    return [], []


def with_prefix_once(ids: list[int], prefix: list[int]) -> list[int]:
    """The token ids with a prefix, which is not doubled."""
    return ids if ids[: len(prefix)] == prefix else [*prefix, *ids]
