"""Tokenizes prompts and candidates, by the boundary rule of lm-evaluation-harness."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from engine.contract import Candidate
from engine.errors import PromptError
from engine.prompting.prompter import Prompter
from engine.reasoning import with_reasoning_closed
from engine.text import encodable
from engine.types import Request

logger = logging.getLogger(__name__)

# Encodes a text and what follows it as one.
Encode = Callable[[str, str], list[int]]


@dataclass(frozen=True, slots=True)
class Pair:
    """The token ids of a prompt and of one candidate.

    Attributes:
        context: the prompt, at least one token.
        continuation: the candidate, at least one token.
    """

    context: list[int]
    continuation: list[int]


class PairTokenizer:
    """Tokenizes pairs for the tokenizer, architecture and context length of a prompter."""

    def __init__(self, prompter: Prompter) -> None:
        self.prompter = prompter
        self.tokenizer = prompter.tokenizer
        # Many prompts may have the same candidates.
        self._tokenize_candidate = cache(self._tokenize)

    def split(self, prompt: Request | str, candidates: Sequence[Candidate]) -> list[Pair]:
        """One pair per candidate, in order; each fits the context length.

        Args:
            candidates: texts or token ids.

        Raises:
            PromptError: there are no candidates, or one is empty, adds no token or is too long.
        """
        if isinstance(candidates, str) or not candidates:
            raise PromptError("it has no list of candidates: give at least one text in a list")
        texts = [
            encodable(candidate) if isinstance(candidate, str) else candidate for candidate in candidates
        ]
        if "" in texts:
            raise PromptError(f"candidate {texts.index('')} is empty: leave it out, or give it a text")
        whole, encode = self._render(prompt, texts)
        text = whole.rstrip()
        spaces = whole[len(text) :]
        context = encode(text, "") if text else []
        pairs = [
            self._pair(context, text, spaces + candidate, encode)
            if isinstance(candidate, str)
            else Pair(context or [self.prompter.require_begin_token()], list(candidate))
            for candidate in texts
        ]
        return [self._fit_window(pair, i, isinstance(prompt, str)) for i, pair in enumerate(pairs)]

    def context(self, prompt: Request | str) -> list[int]:
        """The token ids of a prompt with its trailing spaces, truncated to the context length.

        Raises:
            PromptError: a conversation exceeds the context length.
        """
        text, encode = self._render(prompt)
        ids = encode(text, "") if text else []
        return self._truncate(ids or [self.prompter.require_begin_token()])

    def _render(self, prompt: Request | str, candidates: Sequence[Candidate] = ()) -> tuple[str, Encode]:
        """The prompt as text, and the function that encodes it with what follows it."""
        if isinstance(prompt, str):
            return encodable(prompt), self.prompter.tokenize_plain
        # Turns are dropped until the longest candidate fits, not until the longest answer does.
        sizes = [len(self._tokenize_candidate(one) if isinstance(one, str) else one) for one in candidates]
        room = max(sizes, default=1)
        options = prompt.options.model_copy(update={"max_new_tokens": room})
        text = with_reasoning_closed(self.prompter.render(prompt.messages, options))
        return text, lambda text, ending: self.prompter.tokenize(text, options, ending)

    def _tokenize(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def _pair(self, context: list[int], prompt: str, candidate: str, encode: Encode) -> Pair:
        if context and not self.prompter.seq2seq:
            return Pair(context, encode(prompt, candidate)[len(context) :])
        ids = self._tokenize(candidate)
        if context:
            return Pair(context, ids)
        begin = self.prompter.require_begin_token()
        return Pair([begin], ids[1:] if ids[:1] == [begin] else ids)

    def _fit_window(self, pair: Pair, candidate: int, plain: bool) -> Pair:
        """Truncates a plain prompt to the context length. The last token of a pair is scored, not read."""
        limit, size = self.prompter.context_length, len(pair.continuation)
        if not size:
            raise PromptError(
                f"candidate {candidate} adds no token: the tokenizer joins it to the end of the prompt. End "
                "the prompt at a word's end, or lengthen the candidate"
            )
        if limit is None:
            return pair
        if size > limit:
            raise PromptError(
                f"candidate {candidate} is {size} tokens long and the model's context length is {limit}: "
                "shorten it"
            )
        if self.prompter.seq2seq:
            return Pair(self._truncate(pair.context), pair.continuation)
        if (over := len(pair.context) + size - 1 - limit) <= 0:
            return pair
        if not plain:
            raise PromptError(
                f"the conversation and candidate {candidate} are {over} tokens longer than the context "
                f"length of {limit}: shorten one of them"
            )
        return Pair(self._truncate(pair.context, limit + 1 - size), pair.continuation)

    def _truncate(self, ids: list[int], room: int | None = None) -> list[int]:
        """The last tokens, as many as fit into `room`, by default the whole context length."""
        room = self.prompter.context_length if room is None else room
        if room is None or len(ids) <= room:
            return ids
        logger.warning(
            "a prompt of %d tokens is cut to its last %d, to fit the context length", len(ids), room
        )
        return ids[-room:]
