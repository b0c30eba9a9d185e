"""Penalties: logits processors against repetition, whose cost per token does not grow with the answer."""

from collections import Counter
from collections.abc import Sequence

import torch


class Penalties:
    """The penalties of one sequence: transformers' repetition penalty and OpenAI's two.

    The repetition penalty covers prompt and answer, the frequency and presence penalties the answer only.
    """

    def __init__(self, repetition: float, frequency: float, presence: float) -> None:
        """Starts with an empty prompt.

        Args:
            repetition: divides the logit of a token that occurred, or multiplies a negative one; 1: off.
            frequency: is subtracted for each occurrence of a token in the answer; 0: off.
            presence: is subtracted once for a token that occurred in the answer; 0: off.
        """
        self._repetition, self._frequency, self._presence = repetition, frequency, presence
        self.restart(())

    def __bool__(self) -> bool:
        """Whether any penalty is on."""
        return self._repetition != 1 or bool(self._frequency or self._presence)

    def restart(self, prompt: Sequence[int]) -> None:
        """Starts an empty answer to a prompt of token ids."""
        self._counts: Counter[int] = Counter()
        self._new: list[int] = []  # Tokens of the answer that are not in the tensors yet.
        self._prompt = prompt
        self._occurred: torch.Tensor | None = None
        self._subtracted: torch.Tensor | None = None

    def add(self, token: int) -> None:
        """Adds a token to the answer."""
        if self:
            self._new.append(token)

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        """Returns (vocabulary,) logits with the penalties applied; the input is not changed."""
        if not self:
            return scores
        if self._occurred is None or self._subtracted is None:
            self._occurred = torch.zeros_like(scores, dtype=torch.bool)
            self._subtracted = torch.zeros_like(scores)
            self._occurred[torch.tensor(self._prompt, dtype=torch.long, device=scores.device)] = True
        self._counts.update(self._new)
        for token in self._new:
            self._occurred[token] = True
            self._subtracted[token] = self._frequency * self._counts[token] + self._presence
        self._new.clear()
        scores = scores - self._subtracted
        if self._repetition == 1:
            return scores
        penalized = torch.where(scores < 0, scores * self._repetition, scores / self._repetition)
        return torch.where(self._occurred, penalized, scores)
