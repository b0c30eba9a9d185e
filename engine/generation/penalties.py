"""Penalties on tokens that a row has already: each token costs the same, however many there are."""

from collections import Counter
from collections.abc import Sequence

import torch


class Penalties:
    """transformers' penalty on repetition, of prompt and answer, and OpenAI's two, of the answer alone."""

    def __init__(self, repetition: float, frequency: float, presence: float) -> None:
        """Takes what divides the scores of a token that is there, or multiplies those below 0; and what is
        taken off for each time that the answer has a token, and for having it at all.
        """
        self._repetition, self._frequency, self._presence = repetition, frequency, presence
        self.restart(())

    def __bool__(self) -> bool:
        """Whether there is any."""
        return self._repetition != 1 or bool(self._frequency or self._presence)

    def restart(self, read: Sequence[int]) -> None:
        """Forgets the answer; `read` is what the model reads before it."""
        self._counts: Counter[int] = Counter()
        self._new: list[int] = []  # Of the answer, not in the tensors yet.
        self._read = read
        self._there: torch.Tensor | None = None
        self._less: torch.Tensor | None = None

    def add(self, token: int) -> None:
        """Counts a token of the answer."""
        if self:
            self._new.append(token)

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        """(vocabulary,) scores → the same, less the penalties."""
        if not self:
            return scores
        if self._there is None or self._less is None:
            self._there = torch.zeros_like(scores, dtype=torch.bool)
            self._less = torch.zeros_like(scores)
            self._there[torch.tensor(self._read, dtype=torch.long, device=scores.device)] = True
        self._counts.update(self._new)
        for token in self._new:
            self._there[token] = True
            self._less[token] = self._frequency * self._counts[token] + self._presence
        self._new.clear()
        scores = scores - self._less
        if self._repetition == 1:
            return scores
        penalised = torch.where(scores < 0, scores * self._repetition, scores / self._repetition)
        return torch.where(self._there, penalised, scores)
