"""Tokens → text while an answer grows, each token decoded a bounded number of times."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

# A character has at most four bytes: more tokens without one are no beginning of a character.
_LONGEST_CHARACTER = 4


class Decoder:
    """Decodes one growing sequence.

    A token's text can depend on the one before it (a space, the bytes of one character), so a piece is what a
    few tokens together add to the text of those before them.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, special: bool) -> None:
        """Starts empty.

        Args:
            special: whether special tokens have a text.
        """
        self._tokenizer = tokenizer
        self._special = special
        self._tokens: list[int] = []
        self._known = 0  # So many tokens are context: their text is out.

    def add(self, token: int) -> str:
        """The text that is certain with one more token; empty where a character is incomplete."""
        self._tokens.append(token)
        before, text = self._text(self._tokens[: self._known]), self._text(self._tokens)
        fresh = len(self._tokens) - self._known
        if text.endswith("\N{REPLACEMENT CHARACTER}") and fresh < _LONGEST_CHARACTER:
            return ""
        self._tokens = self._tokens[self._known :]
        self._known = fresh
        return text[len(before) :]

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=not self._special))


class StopStrings:
    """Ends a row where its text has a stop string: one string has many spellings in tokens.

    A stop string may be a special token, too.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]) -> None:
        self._decoder = Decoder(tokenizer, special=True)
        self._stops = stops
        self._longest = max(map(len, stops))
        self._tail = ""

    def __call__(self, token: int) -> bool:
        """Whether the text has a stop string with this token."""
        text = self._tail + self._decoder.add(token)
        self._tail = text[-self._longest :]
        return any(stop in text for stop in self._stops)


def held_back(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of a text may be the beginning of a stop string."""
    lengths = (
        length
        for stop in stops
        for length in range(min(len(stop) - 1, len(text)), 0, -1)
        if text.endswith(stop[:length])
    )
    return max(lengths, default=0)


class Pieces:
    """What a growing answer's text grows by; all pieces together are the answer's text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str]) -> None:
        self._decoder = Decoder(tokenizer, special=False)
        self._stops = stops
        self._given = ""
        self._held = ""

    def add(self, token: int) -> str:
        """The next piece: without what may be cut from the answer's end."""
        self._held += self._decoder.add(token)
        if not self._given:
            self._held = self._held.lstrip()
        certain = self._held[: len(self._held) - held_back(self._held, self._stops)].rstrip()
        self._given += certain
        self._held = self._held[len(certain) :]
        return certain

    def rest(self, text: str) -> str:
        """The last piece, of an answer with this text."""
        return text.removeprefix(self._given)
