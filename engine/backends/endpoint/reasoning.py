"""What a model thinks before it answers, apart from the answer."""

import re
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

OPEN, CLOSE = "<think>", "</think>"
# Not where a text speaks of it: `</think>`.
_CLOSED = re.compile(rf"(?<![`'\"]){CLOSE}(?![`'\"])")


class Thoughts:
    """Takes the <think>…</think> at the beginning of a growing text out of it.

    Attributes:
        text: what was thought so far; None where nothing was.
    """

    def __init__(self) -> None:
        self.text: str | None = None
        self._held = ""
        self._state = "before"

    def part(self, piece: str) -> str:
        """What of a text's next piece, and of what was held back before it, is no thought."""
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
            # Only what is new can end it, but for the beginning of the end.
            thought, ended, rest = (self._held + piece).partition(CLOSE)
            keep = 0 if ended else len(CLOSE) - 1
            self._held = thought[max(len(thought) - keep, 0) :] if keep else ""
            self.text = (self.text or "") + thought.removesuffix(self._held)
            self._state = "after" if ended else "within"
            return rest
        return piece

    def rest(self) -> str:
        """What was held back to the end of the text, and is no thought."""
        held, self._held = self._held, ""
        if self._state == "within":
            self.text = (self.text or "") + held
            return ""
        return held


def unopened(text: str) -> tuple[str | None, str]:
    """What was thought and what is said in a whole text whose thought the model's template has begun.

    So it has no <think>, which is why no piece of it could tell before its </think> came.
    """
    parts = _CLOSED.split(text, maxsplit=1)
    return (parts[0], parts[1]) if len(parts) == 2 else (None, text)


def first_of(text: str, tokens: Sequence[str]) -> int:
    """Which of the tokens a text begins with that they end with; behind the last where they do not show it.

    A server may list the tokens of what was thought before the answer's, and the end token behind them.
    """
    said = "".join(tokens)
    starts = list(accumulate(map(len, tokens), initial=0))
    place = said.rfind(text)
    if not text or place < 0 or (len(tokens) > 1 and place + len(text) < starts[-2]):
        return len(tokens)
    first = bisect_left(starts, place)
    if starts[first] > place:  # Within a token: that may have blanks before the text, and nothing else.
        first -= 1
    return len(tokens) if said[starts[first] : place].strip() else first
