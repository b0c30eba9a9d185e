"""Text → token ids: long texts in sections that are remembered, and what a tokenizer puts around a text."""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

# Characters of a section, and how far around a border it is tried whether tokens end there.
_SECTION, _AROUND = 1024, 48
# Borders that are tried before the rest of a text is read as one section.
_TRIED = 8
# Sections that are remembered: a conversation that grows is read anew from where it has changed.
_REMEMBERED = 1024
# Where words end in nearly every vocabulary.
_BORDER = re.compile(r"(?<=[a-z]) (?=[A-Za-z])")


class Sections:
    """Reads texts for one tokenizer; a text costs no more for each of its letters the longer it is.

    Args:
        encode: the token ids of a text, without special tokens around it.
        backend: what encodes; None where that is unknown, and texts are read whole.
        names: finds tokens that a text is cut at before anything else.
    """

    def __init__(
        self, encode: Callable[[str], list[int]], backend: Tokenizer | None, names: re.Pattern[str]
    ) -> None:
        self._encode = encode
        self._backend = backend
        self._names = names
        self._parts = lru_cache(_REMEMBERED)(self._are_parts)
        self._read = lru_cache(_REMEMBERED)(lambda text: tuple(encode(text)))

    def __call__(self, text: str) -> list[int]:
        """The token ids of a text, as if it were read whole."""
        if self._backend is None or len(text) <= 2 * _SECTION:
            return self._encode(text)
        *sections, last = self._cut(text)
        return [token for section in sections for token in self._read(section)] + self._encode(last)

    def _cut(self, text: str) -> Iterator[str]:
        start = 0
        while start + _SECTION < len(text):
            end = self._end(text, start + _SECTION)
            yield text[start:end]
            start = end
        yield text[start:]

    def _end(self, text: str, start: int) -> int:
        """The first place from here on where a token ends, whatever is around it; the text's end at last."""
        stop = start + 2 * _SECTION
        for pattern in (_BORDER, self._names):
            for found in islice(pattern.finditer(text, start, stop), _TRIED):
                place = found.start()
                if self._parts(text[place - _AROUND : place], text[place : place + _AROUND]):
                    return place
        return len(text)

    def _are_parts(self, before: str, behind: str) -> bool:
        """Whether tokens end between two texts, in both the tokenizer's rules and its result."""
        if self._encode(before) + self._encode(behind) != self._encode(before + behind):
            return False
        if self._names.match(behind):
            return True
        rule = self._backend.pre_tokenizer if self._backend else None
        normalizer = self._backend.normalizer if self._backend else None
        if rule is None or (normalizer and normalizer.normalize_str(before + behind) != before + behind):
            return False
        return any(start == len(before) for _, (start, _) in rule.pre_tokenize_str(before + behind))


def around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The special tokens that a tokenizer puts before a text, and those behind it."""
    for text in ("a", "A", "1", "."):
        bare = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        whole = tokenizer(text, verbose=False)["input_ids"]
        for start in range(len(whole) - len(bare) + 1):
            if bare and whole[start : start + len(bare)] == bare:
                return whole[:start], whole[start + len(bare) :]
    return [], []


def once(ids: list[int], beginning: list[int]) -> list[int]:
    """A text's tokens behind what begins it, where they do not begin so already."""
    return ids if ids[: len(beginning)] == beginning else [*beginning, *ids]
