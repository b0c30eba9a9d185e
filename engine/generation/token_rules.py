"""Rules on single tokens: a bias, no repeated n-grams, a minimum length; each gives what transformers' gives.

Their cost per token does not grow with the answer.
"""

from collections import defaultdict, deque
from collections.abc import Collection, Sequence

import torch

from engine.options import GenerationOptions


class TokenRules:
    """The rules of one sequence."""

    def __init__(self, options: GenerationOptions, end_tokens: Collection[int] = ()) -> None:
        """Starts with an empty prompt.

        Args:
            end_tokens: the tokens that a minimum length forbids.
        """
        self._bias = options.logit_bias or {}
        self._ngram_size = options.no_repeat_ngram_size
        self._end_tokens = sorted(end_tokens)
        self._min_new_tokens = options.min_new_tokens if self._end_tokens else 0
        self.restart(())

    def __bool__(self) -> bool:
        """Whether any rule is on."""
        return bool(self._bias or self._ngram_size or self._min_new_tokens)

    def restart(self, prompt: Sequence[int]) -> None:
        """Starts an empty answer to a prompt of token ids."""
        self._new_tokens = 0
        # The last tokens, one fewer than an n-gram has, and what has followed them so far.
        self._last = deque[int](maxlen=max(self._ngram_size - 1, 0))
        self._following: defaultdict[tuple[int, ...], set[int]] = defaultdict(set)
        for token in prompt if self._ngram_size else ():
            self._note(token)

    def add(self, token: int) -> None:
        """Adds a token to the answer."""
        self._new_tokens += 1
        if self._ngram_size:
            self._note(token)

    def _note(self, token: int) -> None:
        if len(self._last) == self._ngram_size - 1:
            self._following[tuple(self._last)].add(token)
        self._last.append(token)

    def biased(self, scores: torch.Tensor) -> torch.Tensor:
        """Returns (vocabulary,) logits with the bias added; the input is not changed."""
        if not self._bias:
            return scores
        tokens = torch.tensor(list(self._bias), device=scores.device)
        bias = torch.tensor(list(self._bias.values()), dtype=scores.dtype, device=scores.device)
        return scores.index_add(0, tokens, bias)

    def masked(self, scores: torch.Tensor) -> torch.Tensor:
        """Returns (vocabulary,) logits with -inf for the forbidden tokens; the input is not changed."""
        forbidden = list(self._following.get(tuple(self._last), ())) if self._ngram_size else []
        if self._new_tokens < self._min_new_tokens:
            forbidden += self._end_tokens
        if not forbidden:
            return scores
        return scores.index_fill(0, torch.tensor(forbidden, device=scores.device), -torch.inf)
