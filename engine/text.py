"""Text for tokenizers; tokens → text while an answer grows, at a bounded cost for each token."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from engine.errors import PromptError

# What decoders write for bytes that are not, or not yet, a character.
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
# The most of these that the first bytes of one character make.
_LONGEST_START = 3
# Tokens after which text that ends in an incomplete character is given all the same.
_LONGEST_WAIT = 64


def encodable(text: str) -> str:
    """A text with "?" for lone surrogates: JSON can hold them, but tokenizers and HTTP cannot."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def listed(texts: Sequence[Any]) -> list[Any]:
    """A list of texts or of token ids.

    Raises:
        PromptError: it is no list, or one of them is neither.
    """
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise PromptError("a list of texts is needed, not one text: [text]")
    found = list(texts)
    for i, one in enumerate(found):
        if not isinstance(one, Iterable):
            raise PromptError(f"text {i} is {one!r}: give a text")
    return found


def decoding_context(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> list[int]:
    """The last few tokens: enough context to decode the next tokens as after the whole sequence.

    At most 64. They begin with a whole character, because some decoders reject a sequence that begins within
    one.
    """
    for count in (4, 16, 64):
        last = list(tokens[-count:])
        text = str(tokenizer.decode(last, skip_special_tokens=True))
        if len(last) == len(tokens) or (text.strip() and _INCOMPLETE not in text):
            break
    return last


def decode_after(
    tokenizer: PreTrainedTokenizerBase, before: Sequence[int], tokens: Sequence[int], special: bool = False
) -> str:
    """The text that tokens add to the text of the tokens before them.

    This keeps the leading space of a word, which many decoders drop at the start of a text.

    Args:
        special: whether special tokens are decoded.
    """

    def decoded(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=not special))

    known = decoded(list(before)) if before else ""
    text = decoded([*before, *tokens])
    # A character whose first bytes are in `before` belongs to the tokens that complete it.
    return text[len(known if text.startswith(known) else known.rstrip(_INCOMPLETE)) :]


class Detokenizer:
    """An incremental detokenizer: decodes one growing sequence, a token at a time.

    The text of a token may depend on the token before it (a space, the bytes of one character).
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, special: bool, before: Sequence[int] = ()) -> None:
        """Begins with an empty text.

        Args:
            special: whether special tokens are decoded.
            before: the tokens that the sequence continues, from `decoding_context`.
        """
        self._tokenizer = tokenizer
        self._special = special
        self._tokens = list(before)
        self._known = len(before)  # The first tokens are context: their text was given before.
        self._given = 0  # Characters of the other tokens' text that were given.

    def add(self, token: int) -> str:
        """Takes the next token, and gives the text that is new and complete."""
        self._tokens.append(token)
        before, waiting = self._tokens[: self._known], self._tokens[self._known :]
        text = decode_after(self._tokenizer, before, waiting, self._special)
        waited = len(waiting)
        certain = text.rstrip(_INCOMPLETE) if waited < _LONGEST_WAIT else text
        new, self._given = certain[self._given :], len(certain)
        # Tokens without a text are no context: a first word loses its space in some tokenizers.
        if certain == text and (text or waited >= _LONGEST_WAIT):
            self._tokens, self._known, self._given = waiting, waited, 0
        return new


def token_texts(
    tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], before: Sequence[int] = ()
) -> list[str]:
    """The text that each token adds; "" for a special token and for an incomplete character.

    Joined they are the text of the tokens, except for an incomplete character at its end.
    """
    detokenizer = Detokenizer(tokenizer, special=False, before=before)
    return [detokenizer.add(token) for token in tokens]


class StopMatcher:
    """Finds a stop string in a growing text (Knuth-Morris-Pratt: linear in the text's length).

    Attributes:
        length: how many characters at the text's end are the beginning of the stop string.
    """

    def __init__(self, stop: str) -> None:
        self._stop = stop
        self.length = 0
        # KMP's failure function, computed as far as the stop string was matched.
        self._borders = [0, 0]

    def add(self, text: str) -> int | None:
        """Takes the next part of the text; returns the stop string's end in it, or None."""
        for count, character in enumerate(text, 1):
            self.length = self._longer(self.length, character)
            if self.length == len(self._borders):
                self._borders.append(self._longer(self._borders[-1], character))
            if self.length == len(self._stop):
                return count
        return None

    def _longer(self, length: int, character: str) -> int:
        while length and (length == len(self._stop) or self._stop[length] != character):
            length = self._borders[length]
        return length + (self._stop[length] == character)


class StoppingCriteria:
    """Ends a sequence at a stop string.

    Stop strings are searched in the text, because one string has many spellings in tokens. They may contain
    special tokens.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stops: Sequence[str],
        before: Sequence[int] = (),
        part: Callable[[str], str] | None = None,
    ) -> None:
        """Begins with an empty sequence.

        Args:
            before: the tokens that the sequence continues, from `decoding_context`.
            part: takes each new part of the text, and gives what of it is searched; None: all of it is.
        """
        self._detokenizer = Detokenizer(tokenizer, special=True, before=before)
        self._part = part
        self._matchers = [StopMatcher(stop) for stop in stops]

    def __call__(self, token: int) -> bool:
        """Takes the next token; returns whether the sequence ends with it."""
        text = self._detokenizer.add(token)
        text = text if self._part is None else self._part(text)
        return any([matcher.add(text) is not None for matcher in self._matchers])


def without_incomplete_end(text: str) -> str:
    """A text without an incomplete character at its end."""
    for _ in range(_LONGEST_START):
        text = text.removesuffix(_INCOMPLETE)
    return text


def before_stop(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop string in it."""
    return text[: min((start for stop in stops if (start := text.find(stop)) >= 0), default=len(text))]


class Deltas:
    """The deltas of a growing text before its first stop string; joined they are the answer's text.

    Text that may still be the beginning of a stop string is held back, and so is white space that may be the
    answer's end.
    """

    def __init__(self, stops: Sequence[str], trim: bool = True) -> None:
        """Begins with an empty text.

        Args:
            trim: whether white space at both ends is left out.
        """
        self.given = 0  # Characters, in all deltas together.
        self._matchers = [(stop, StopMatcher(stop)) for stop in stops]
        self._trim = trim
        self._held: list[str] = []
        self._length = 0  # Of what is held.
        self._stopped = False

    def add(self, text: str) -> str:
        """Takes the next part of the text, and gives the next delta; "" after a stop string."""
        if not text or self._stopped:
            return ""
        before, self._length = self._length, self._length + len(text)
        self._held.append(text)
        # Where stop strings begin, whole ones and partial ones: one may begin earlier and end later.
        starts = [self._length]
        for stop, matcher in self._matchers:
            end = matcher.add(text)
            starts.append(self._length - matcher.length if end is None else before + end - len(stop))
            self._stopped |= end is not None
        if (certain := min(starts)) <= 0:
            return ""
        held = "".join(self._held)
        ready = held[:certain].rstrip() if self._trim else held[:certain]
        self._held, self._length = [held[len(ready) :]], len(held) - len(ready)
        delta = ready.lstrip() if self._trim and not self.given else ready
        self.given += len(delta)
        return delta

    def rest(self, text: str) -> str:
        """The last delta of an answer with this text."""
        return text[self.given :]
