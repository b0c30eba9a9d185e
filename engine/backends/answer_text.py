"""The text of an answer while its tokens come, without the reasoning before it."""

from transformers import PreTrainedTokenizerBase

from engine.reasoning import ReasoningSplitter
from engine.text import Detokenizer, decoding_context


class AnswerText:
    """Decodes a growing sequence that may begin with reasoning, whose marks may be special tokens.

    Attributes:
        taken: number of tokens that were added.
        begun: whether the answer itself has begun.
        first: the index of its first token; white space and special tokens after the reasoning are not its.
        before: the tokens that it continues, from `decoding_context`.
        head: what its first token adds to it, where that also ends the reasoning; else "".
        reasoning: the text of the reasoning; None if there is none.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, before: list[int], splitter: ReasoningSplitter | None
    ) -> None:
        """Begins with an empty text.

        Args:
            before: the tokens that the sequence continues, from `decoding_context`.
            splitter: finds the reasoning; None: there is none.
        """
        self.taken = 0
        self.begun = splitter is None
        self.first = 0
        self.before = before
        self.head = ""
        self.reasoning: str | None = None
        self._tokenizer = tokenizer
        self._prompt = before
        self._splitter = splitter
        self._tokens: list[int] = []  # Those before the answer.
        self._marked = Detokenizer(tokenizer, special=True, before=before)
        self._detokenizer = Detokenizer(tokenizer, special=False, before=before)

    def add(self, token: int) -> str:
        """Takes the next token, and gives the text of the answer that is new and complete."""
        self.taken += 1
        if self.begun:
            return self._detokenizer.add(token)
        self._tokens.append(token)
        if self._splitter is None:
            text = self._detokenizer.add(token)
            self.begun = not text.isspace() and token not in self._tokenizer.all_special_ids
            self.first += not self.begun
        else:
            text = self._splitter.part(self._marked.add(token))
            if not self._splitter.ended:
                return ""
            if self._splitter.text is None:
                self.begun = True
                return "".join(map(self._detokenizer.add, self._tokens))
            self.reasoning = self._splitter.text.strip() or None
            self._splitter = None
            # The token that completes the closing mark may begin the answer.
            self.begun = bool(text.strip())
            self.head = text if self.begun else ""
            self.first = len(self._tokens) - self.begun
            self._detokenizer = Detokenizer(self._tokenizer, False, self._context(len(self._tokens)))
        if not self.begun:
            return ""
        self.before = self._context(self.first)
        return text

    def _context(self, count: int) -> list[int]:
        """Some tokens before the one of this index, to decode it with."""
        return decoding_context(self._tokenizer, [*self._prompt, *self._tokens[:count]])
