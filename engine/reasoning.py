"""Separates a model's reasoning from its answer, by the marks of the model families."""

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any


@dataclass(frozen=True, slots=True)
class Marks:
    """What a model writes before and after its reasoning."""

    open: str
    close: str


FORMS = (
    Marks("<think>", "</think>"),  # DeepSeek R1, Qwen 3, GLM 4.5, SmolLM 3, OLMo 3, MiniMax M2.
    Marks("<thinking>", "</thinking>"),
    Marks("<thought>", "</thought>"),  # EXAONE Deep.
    Marks("<reasoning>", "</reasoning>"),
    Marks("<seed:think>", "</seed:think>"),  # Seed OSS.
    Marks("[THINK]", "[/THINK]"),  # Magistral.
    Marks("◁think▷", "◁/think▷"),  # Kimi VL.
    Marks("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A.
    Marks("<|inner_prefix|>", "<|inner_suffix|>"),  # Apertus.
    Marks("<|channel>thought\n", "<channel|>"),  # Gemma 4.
    # gpt-oss, with reasoning and without.
    Marks("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    Marks("<|channel|>final<|message|>", ""),
)
# What is wrong with an answer that was cut off, or has ended, while the model was thinking.
ONLY_REASONING = (
    "has only reasoning: raise max_new_tokens, or have the model reason less "
    '(chat_template_kwargs: {"enable_thinking": false}, where its chat template has that)'
)
# Fields of transformers' `response_template` that are reasoning.
_FIELDS = ("reasoning_content", "reasoning", "thinking")
# Not where it is quoted: `</think>`.
_CLOSED = re.compile(
    r"(?<![`'\"])(?:" + "|".join(re.escape(marks.close) for marks in FORMS if marks.close) + r")(?![`'\"])"
)


def forms_of(response_template: Any) -> tuple[Marks, ...]:
    """The marks to look for: those that a tokenizer's `response_template` names, and the families'."""
    fields = response_template.get("fields") if isinstance(response_template, dict) else None
    named = [fields.get(key) for key in _FIELDS] if isinstance(fields, dict) else []
    own = []
    for one in named:
        match one:
            case {"open": str(opening), "close": str(closing)} if opening.strip() and closing.strip():
                own.append(Marks(opening, closing))
    return (*own, *FORMS)


def opened_by(prompt: str, forms: Sequence[Marks] = FORMS) -> Marks | None:
    """The marks of the reasoning that a prompt itself has begun; None where it has begun none."""
    end = prompt.rstrip()
    return next((marks for marks in forms if end.endswith(marks.open.rstrip())), None)


def with_reasoning_closed(prompt: str) -> str:
    """A prompt whose next text is the answer: reasoning that it has begun is ended, empty."""
    marks = opened_by(prompt)
    return prompt if marks is None else f"{prompt.rstrip()}\n\n{marks.close}\n\n"


def begins(text: str, forms: Sequence[Marks] = FORMS) -> Marks | None:
    """The marks of the reasoning with which a text begins; None where it begins with none."""
    begun = text.lstrip()
    return next((marks for marks in forms if begun.startswith(marks.open)), None)


class ReasoningSplitter:
    """Removes the reasoning at the beginning of a growing text.

    Attributes:
        text: the reasoning so far; None if there is none.
        ended: whether what comes now is the answer.
    """

    def __init__(self, opened: Marks | None = None, forms: Sequence[Marks] = FORMS) -> None:
        """Begins with an empty text.

        Args:
            opened: the marks of the reasoning that the prompt has begun.
        """
        self.text: str | None = None if opened is None else ""
        self.ended = False
        self._forms = forms
        self._marks = opened
        self._held = ""

    def part(self, piece: str) -> str:
        """Takes the next part of the text; returns what is certainly not reasoning."""
        if self.ended:
            return piece
        piece, self._held = self._held + piece, ""
        if self._marks is None:
            begun = piece.lstrip()
            if any(len(begun) < len(marks.open) and marks.open.startswith(begun) for marks in self._forms):
                self._held = piece
                return ""
            self._marks = begins(piece, self._forms)
            if self._marks is None:
                self.ended = True
                return piece
            piece, self.text = begun.removeprefix(self._marks.open), ""
        # Only the new part can contain the closing mark, or complete one that has begun.
        close = self._marks.close
        if close:
            thought, closed, rest = piece.partition(close)
        else:
            thought, closed, rest = "", "closed", piece
        keep = 0 if closed else len(close) - 1
        self._held = thought[max(len(thought) - keep, 0) :] if keep else ""
        self.text = (self.text or "") + thought.removesuffix(self._held)
        self.ended = bool(closed)
        return rest

    def rest(self) -> str:
        """What was held back until the end of the text, and is not reasoning."""
        held, self._held = self._held, ""
        if self.text is not None and not self.ended:
            self.text += held
            return ""
        return held


def without_reasoning(text: str) -> str:
    """A whole answer without the reasoning that it begins with."""
    if begins(text) is None:
        return text
    splitter = ReasoningSplitter()
    said = splitter.part(text) + splitter.rest()
    return said.lstrip() if splitter.ended else text


def split_unopened(text: str) -> tuple[Marks | None, str, str]:
    """The marks (or None), the reasoning and the answer of a whole text.

    If the model's chat template writes the opening mark, the text contains only the closing one. So while the
    text of a server grew, its reasoning could not be recognized.
    """
    if (found := _CLOSED.search(text)) is None:
        return None, "", text
    marks = next(marks for marks in FORMS if marks.close == found[0])
    return marks, text[: found.start()], text[found.end() :]


def first_answer_token(text: str, tokens: Sequence[str], reasoned: bool) -> int:
    """The index of the token with which a text begins; `len(tokens)` if that cannot be told.

    A server may list the tokens of the reasoning before those of the answer, and the end token after them,
    even if it gives nothing else of the reasoning.

    Args:
        text: the answer, without white space around it.
        reasoned: whether the server has said that there was reasoning. If not, tokens that do not spell the
            text are its own, spelled otherwise, unless they have a closing mark.
    """
    said = "".join(tokens)
    if not reasoned and said.lstrip().startswith(text):
        return 0
    unknown = len(tokens) if reasoned or _CLOSED.search(said) else 0
    starts = list(accumulate(map(len, tokens), initial=0))
    place = said.rfind(text)
    if not text or place < 0 or (len(tokens) > 1 and place + len(text) < starts[-2]):
        return unknown
    first = bisect_left(starts, place)
    if starts[first] > place:  # Within a token, which may have only white space before the text.
        first -= 1
    if first == 0 and not reasoned:  # Or what a tokenizer writes for it.
        return 0
    return len(tokens) if said[starts[first] : place].strip() else first
