"""Separates a model's reasoning from its answer."""

import re
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

OPEN, CLOSE = "<think>", "</think>"
# Not where it is quoted: `</think>`.
_CLOSED = re.compile(rf"(?<![`'\"]){CLOSE}(?![`'\"])")


class ReasoningSplitter:
    """Removes the <think>…</think> at the beginning of a growing text.

    Attributes:
        text: the reasoning so far; None if there is none.
    """

    def __init__(self) -> None:
        self.text: str | None = None
        self._held = ""
        self._state = "before"

    def part(self, piece: str) -> str:
        """Takes the next part of the text; returns what is certainly not reasoning."""
        if self._state == "before":
            self._held += piece
            begun = self._held.lstrip()
            if len(begun) < len(OPEN) and OPEN.startswith(begun):
                return ""
            piece, self._held = self._held, ""
            self._state = "after"
            if begun.startswith(OPEN):
                piece, self._state, self.text = begun.removeprefix(OPEN), "within", ""
        if self._state == "within":
            # Only the new part can contain </think>, or complete one that has begun.
            thought, ended, rest = (self._held + piece).partition(CLOSE)
            keep = 0 if ended else len(CLOSE) - 1
            self._held = thought[max(len(thought) - keep, 0) :] if keep else ""
            self.text = (self.text or "") + thought.removesuffix(self._held)
            self._state = "after" if ended else "within"
            return rest
        return piece

    def rest(self) -> str:
        """What was held back until the end of the text, and is not reasoning."""
        held, self._held = self._held, ""
        if self._state == "within":
            self.text = (self.text or "") + held
            return ""
        return held


def split_unopened(text: str) -> tuple[str | None, str]:
    """The reasoning (or None) and the answer of a whole text.

    If the model's chat template writes the <think>, the text contains only the </think>. So while the text
    grew, its reasoning could not be recognized.
    """
    parts = _CLOSED.split(text, maxsplit=1)
    return (parts[0], parts[1]) if len(parts) == 2 else (None, text)


def first_answer_token(text: str, tokens: Sequence[str]) -> int:
    """The index of the token with which a text begins; `len(tokens)` if that is unknown.

    A server may list the tokens of the reasoning before those of the answer, and the end token after them.
    """
    said = "".join(tokens)
    starts = list(accumulate(map(len, tokens), initial=0))
    place = said.rfind(text)
    if not text or place < 0 or (len(tokens) > 1 and place + len(text) < starts[-2]):
        return len(tokens)
    first = bisect_left(starts, place)
    if starts[first] > place:  # Within a token, which may have only white space before the text.
        first -= 1
    return len(tokens) if said[starts[first] : place].strip() else first
