"""Text as tokenizers take it, and tokens → text while an answer grows, decoded a bounded number of times."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

# What a decoder writes for bytes that are no character, or not yet one.
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
# The most of these that the first bytes of one character are.
_LONGEST_START = 3
# After so many tokens that end in no character none is awaited any more.
_LONGEST_WAIT = 64


def encodable(text: str) -> str:
    """A text without halves of surrogate pairs: JSON can hold them, no tokenizer or request takes them."""
    return text.encode("utf-8", "replace").decode()


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
        self._given = 0  # So many characters of the others' text are out, too.

    def add(self, token: int) -> str:
        """The text that is certain with one more token, beyond what was certain before."""
        self._tokens.append(token)
        text = self._text(self._tokens)[len(self._text(self._tokens[: self._known])) :]
        waited = len(self._tokens) - self._known
        certain = text.rstrip(_INCOMPLETE) if waited < _LONGEST_WAIT else text
        piece, self._given = certain[self._given :], len(certain)
        # Tokens without a text are no context: a first word loses its space in some tokenizers.
        if certain == text and (text or waited >= _LONGEST_WAIT):
            self._tokens = self._tokens[self._known :]
            self._known, self._given = waited, 0
        return piece

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=not self._special))


def pieces(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> list[str]:
    """What each token adds to their text; "" where it is special or ends within a character.

    All of them together are the tokens' text, but for bytes at its end that are no character.
    """
    decoder = Decoder(tokenizer, special=False)
    return [decoder.add(token) for token in tokens]


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


def whole(text: str) -> str:
    """A text without the first bytes of a character at its end, whose others were never written."""
    for _ in range(_LONGEST_START):
        text = text.removesuffix(_INCOMPLETE)
    return text


def before_stop(text: str, stops: Sequence[str]) -> str:
    """The text up to the first stop string in it."""
    return text[: min((start for stop in stops if (start := text.find(stop)) >= 0), default=len(text))]


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

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str], trim: bool = True) -> None:
        self._decoder = Decoder(tokenizer, special=False)
        self._stops = stops
        self._trim = trim
        self._given = ""
        self._held = ""

    def add(self, token: int) -> str:
        """The next piece: without what may be cut from the answer's end."""
        self._held += self._decoder.add(token)
        if self._trim and not self._given:
            self._held = self._held.lstrip()
        text = before_stop(self._held, self._stops)
        certain = text[: len(text) - held_back(text, self._stops)]
        certain = certain.rstrip() if self._trim else certain
        self._given += certain
        self._held = self._held[len(certain) :]
        return certain

    def rest(self, text: str) -> str:
        """The last piece, of an answer with this text."""
        return text[len(self._given) :]
