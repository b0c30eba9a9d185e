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
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def context(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> list[int]:
    """As many of the last tokens as what follows them needs to be decoded as it is behind all of them.

    They begin with a whole character: some decoders take no byte of a row that begins within one.
    """
    for count in (4, 16, 64):
        last = list(tokens[-count:])
        text = str(tokenizer.decode(last, skip_special_tokens=True))
        if len(last) == len(tokens) or (text.strip() and _INCOMPLETE not in text):
            break
    return last


def following(
    tokenizer: PreTrainedTokenizerBase, before: Sequence[int], tokens: Sequence[int], special: bool = False
) -> str:
    """What tokens add to the text of those before them: a blank, say, which a first word has not."""

    def decoded(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=not special))

    known = decoded(list(before)) if before else ""
    text = decoded([*before, *tokens])
    # A character whose first bytes are before belongs to what completes it.
    return text[len(known if text.startswith(known) else known.rstrip(_INCOMPLETE)) :]


class Decoder:
    """Decodes one growing sequence.

    A token's text can depend on the one before it (a space, the bytes of one character), so a piece is what a
    few tokens together add to the text of those before them.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, special: bool, before: Sequence[int] = ()) -> None:
        """Starts with no token of its own.

        Args:
            special: whether special tokens have a text.
            before: what the sequence goes on from, as `context` gives it.
        """
        self._tokenizer = tokenizer
        self._special = special
        self._tokens = list(before)
        self._known = len(before)  # So many tokens are context: their text is out.
        self._given = 0  # So many characters of the others' text are out, too.

    def add(self, token: int) -> str:
        """The text that is certain with one more token, beyond what was certain before."""
        self._tokens.append(token)
        before, waiting = self._tokens[: self._known], self._tokens[self._known :]
        text = following(self._tokenizer, before, waiting, self._special)
        waited = len(waiting)
        certain = text.rstrip(_INCOMPLETE) if waited < _LONGEST_WAIT else text
        piece, self._given = certain[self._given :], len(certain)
        # Tokens without a text are no context: a first word loses its space in some tokenizers.
        if certain == text and (text or waited >= _LONGEST_WAIT):
            self._tokens, self._known, self._given = waiting, waited, 0
        return piece


def pieces(
    tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], before: Sequence[int] = ()
) -> list[str]:
    """What each token adds to the text before it; "" where it is special or ends within a character.

    All of them together are the tokens' text, but for bytes at its end that are no character.
    """
    decoder = Decoder(tokenizer, special=False, before=before)
    return [decoder.add(token) for token in tokens]


class Match:
    """How much of a stop string a growing text ends with, by Knuth, Morris and Pratt: one step a character.

    Attributes:
        length: so many characters at the text's end are the beginning of the stop string.
    """

    def __init__(self, stop: str) -> None:
        self._stop = stop
        self.length = 0
        # Of each beginning of the stop string: how much of it is its own end, too. As far as it was matched.
        self._borders = [0, 0]

    def add(self, text: str) -> int | None:
        """How many characters of this text come up to the stop string's end; None where that is not here."""
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


class Ending:
    """Ends a row at one of its tokens, or where its text has a stop string: one has many spellings in tokens.

    A stop string may be a special token, too.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stops: Sequence[str],
        ends: frozenset[int] = frozenset(),
        before: Sequence[int] = (),
    ) -> None:
        self._decoder = Decoder(tokenizer, special=True, before=before)
        self._matches = [Match(stop) for stop in stops]
        self._ends = ends

    def __call__(self, token: int) -> bool:
        """Whether the row ends with this token."""
        if token in self._ends or not self._matches:
            return token in self._ends
        text = self._decoder.add(token)
        return any([match.add(text) is not None for match in self._matches])


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
    lengths = [0]
    for stop in stops:
        match = Match(stop)
        match.add(text[len(text) - min(len(stop) - 1, len(text)) :])
        lengths.append(match.length)
    return max(lengths)


class Pieces:
    """What a growing answer's text grows by; all pieces together are the answer's text."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stops: Sequence[str],
        trim: bool = True,
        before: Sequence[int] = (),
    ) -> None:
        self._decoder = Decoder(tokenizer, special=False, before=before)
        self._stops = [(stop, Match(stop)) for stop in stops]
        self._trim = trim
        self._given = 0  # So many characters are out.
        self._held: list[str] = []
        self._length = 0  # Of what is held.
        self._ended = False

    def add(self, token: int) -> str:
        """The next piece: without what may be cut from the answer's end."""
        text = self._decoder.add(token)
        if self._trim and not self._given and not self._held:
            text = text.lstrip()
        if not text or self._ended:
            return ""
        cuts = [
            self._length + end - len(stop)
            for stop, match in self._stops
            if (end := match.add(text)) is not None
        ]
        self._held.append(text)
        self._length += len(text)
        self._ended = bool(cuts)
        held_back = max((match.length for _, match in self._stops), default=0)
        certain = min(cuts) if cuts else self._length - held_back
        if certain <= 0:
            return ""
        held = "".join(self._held)
        piece = held[:certain].rstrip() if self._trim else held[:certain]
        self._held, self._length = [held[len(piece) :]], len(held) - len(piece)
        self._given += len(piece)
        return piece

    def rest(self, text: str) -> str:
        """The last piece, of an answer with this text."""
        return text[self._given :]
