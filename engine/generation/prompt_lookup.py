"""Prompt lookup decoding: a sequence's next tokens are drafted from its own tokens, without a second model.

Where the last tokens have occurred before, in the prompt or the answer, what followed them then is the draft.
The model verifies it in one forward pass, which costs little more than that of one token.

Source: A. Saxena, "Prompt Lookup Decoding", 2023; transformers' `PromptLookupCandidateGenerator` is another
implementation, with drafts of a fixed length. Here a draft is as long as the match, as in SuffixDecoding
(Oliaro et al., 2024): an accepted draft makes the match longer, and after a rejected one it is short.
"""

import math

from engine.batching import common_prefix

# Sizes of the n-grams that are looked up, the longest first.
NGRAMS = (3, 2)
# The most tokens of a draft.
MAX_DRAFT = 15
# The budget of drafted tokens bounds what rejected ones cost. A generated token adds a fraction to it, an
# accepted one several, because it saves a forward pass. The budget never exceeds what it is at first.
BUDGET = 32
PER_GENERATED, PER_ACCEPTED = 1 / 16, 6


class PromptLookup:
    """Drafts the next tokens of one sequence, which may grow in any way between two drafts."""

    def __init__(self, tokens: list[int]) -> None:
        """Looks nothing up yet.

        Args:
            tokens: token ids of the sequence; the caller appends to them.
        """
        self._tokens = tokens
        # The index of the token after each n-gram, where it occurred last.
        self._following: dict[tuple[int, ...], int] = {}
        self._indexed = 0
        self._budget: float = BUDGET
        # The last draft, and the number of tokens before it.
        self._draft: list[int] = []
        self._drafted_after = len(tokens)

    def draft(self, most: int) -> list[int]:
        """The tokens that may come next, `most` at most; none where nothing is found or drafts do not pay."""
        self._settle()
        self._index()
        length = len(self._tokens)
        for size in NGRAMS:
            if start := self._following.get(tuple(self._tokens[-size:])):
                count = min(self._match(start), most)
                if count <= self._budget:
                    # Beyond the sequence's end it goes on with the draft itself: a repetition.
                    self._draft = [self._tokens[start + i % (length - start)] for i in range(count)]
                break
        return self._draft

    def stop(self) -> None:
        """Ends all drafting."""
        self._budget = -math.inf

    def _settle(self) -> None:
        """Takes the last draft from the budget, and adds what was accepted and generated since then."""
        news = self._tokens[self._drafted_after :]
        accepted = common_prefix(self._draft, news)
        earned = PER_GENERATED * len(news) + PER_ACCEPTED * accepted
        self._budget = min(BUDGET, self._budget + earned - len(self._draft))
        self._draft, self._drafted_after = [], len(self._tokens)

    def _index(self) -> None:
        """Takes note of the n-grams that a token has followed since the last draft."""
        for end in range(self._indexed, len(self._tokens)):
            for size in NGRAMS:
                if end >= size:
                    self._following[tuple(self._tokens[end - size : end])] = end
        self._indexed = len(self._tokens)

    def _match(self, start: int) -> int:
        """How many tokens before `start` equal the last ones, up to `MAX_DRAFT`."""
        earlier = self._tokens[max(start - MAX_DRAFT, 0) : start][::-1]
        return common_prefix(earlier, self._tokens[: -MAX_DRAFT - 1 : -1])
