"""Prompt and candidates → token ids, by the boundary rule of lm-evaluation-harness."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.errors import PromptError
from engine.prompting.prompter import Prompter
from engine.text import encodable
from engine.types import Request

logger = logging.getLogger(__name__)

Encode = Callable[[str], list[int]]


@dataclass(frozen=True, slots=True)
class Pair:
    """What is read and what is scored of one candidate.

    Attributes:
        context: the prompt's tokens; at least one.
        continuation: the candidate's tokens; at least one.
    """

    context: list[int]
    continuation: list[int]


class Pairs:
    """Splits prompts and candidates for one prompter: its tokenizer, its kind of model, its window."""

    def __init__(self, prompter: Prompter) -> None:
        self.prompter = prompter
        self.tokenizer = prompter.tokenizer

    def split(self, prompt: Request | str, candidates: Sequence[str | Sequence[int]]) -> list[Pair]:
        """A pair for each candidate, a text or its token ids, in order; all fit the window.

        Raises:
            PromptError: no candidates, one without tokens of its own, or one that does not fit the window.
        """
        if isinstance(candidates, str) or not candidates:
            raise PromptError("it has no list of candidates: give at least one text in a list")
        texts = [
            encodable(candidate) if isinstance(candidate, str) else candidate for candidate in candidates
        ]
        if "" in texts:
            raise PromptError(f"candidate {texts.index('')} is empty: leave it out, or give it a text")
        whole, encode = self._prompt(prompt, texts)
        text = whole.rstrip()
        spaces = whole[len(text) :]
        context = encode(text) if text else []
        pairs = [
            self._pair(context, text, spaces + candidate, encode)
            if isinstance(candidate, str)
            else Pair(context or [self.prompter.required_begin()], list(candidate))
            for candidate in texts
        ]
        return [self._fitting(pair, i, isinstance(prompt, str)) for i, pair in enumerate(pairs)]

    def context(self, prompt: Request | str) -> list[int]:
        """The tokens of a prompt as it stands, trailing spaces and all, cut to the window.

        Raises:
            PromptError: a conversation that does not fit the window.
        """
        text, encode = self._prompt(prompt)
        ids = encode(text) if text else []
        return self._cut(ids or [self.prompter.required_begin()])

    def _prompt(
        self, prompt: Request | str, candidates: Sequence[str | Sequence[int]] = ()
    ) -> tuple[str, Encode]:
        """A prompt as text, and what encodes texts that begin with it."""
        if isinstance(prompt, str):
            return encodable(prompt), self.prompter.plain
        # Turns are dropped so that the longest candidate fits, not the longest answer.
        sizes = [len(self._bare(one) if isinstance(one, str) else one) for one in candidates]
        room = max(sizes, default=1)
        options = prompt.options.model_copy(update={"max_new_tokens": room})
        text = self.prompter.text(prompt.messages, options)
        return text, lambda text: self.prompter.read(text, options)

    def _bare(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _pair(self, context: list[int], prompt: str, candidate: str, encode: Encode) -> Pair:
        if context and not self.prompter.seq2seq:
            return Pair(context, encode(prompt + candidate)[len(context) :])
        ids = self._bare(candidate)
        if context:
            return Pair(context, ids)
        begin = self.prompter.required_begin()
        return Pair([begin], ids[1:] if ids[:1] == [begin] else ids)

    def _fitting(self, pair: Pair, candidate: int, plain: bool) -> Pair:
        """The pair in the window, of plain text its last tokens. The last one of all is never read."""
        window, size = self.prompter.window, len(pair.continuation)
        if not size:
            raise PromptError(
                f"candidate {candidate} adds no token: the tokenizer joins it to the end of the prompt. End "
                "the prompt at a word's end, or lengthen the candidate"
            )
        if window is None:
            return pair
        if size > window:
            raise PromptError(
                f"candidate {candidate} is {size} tokens long and the model's window is {window}: shorten it"
            )
        if self.prompter.seq2seq:
            return Pair(self._cut(pair.context), pair.continuation)
        if (over := len(pair.context) + size - 1 - window) <= 0:
            return pair
        if not plain:
            raise PromptError(
                f"the conversation and candidate {candidate} are {over} tokens longer than the window of "
                f"{window}: shorten one of them"
            )
        return Pair(self._cut(pair.context, window + 1 - size), pair.continuation)

    def _cut(self, ids: list[int], room: int | None = None) -> list[int]:
        """The last tokens, as many as there is room for: by default the whole window."""
        room = self.prompter.window if room is None else room
        if room is None or len(ids) <= room:
            return ids
        logger.warning("a prompt of %d tokens is cut to its last %d, to fit the window", len(ids), room)
        return ids[-room:]
