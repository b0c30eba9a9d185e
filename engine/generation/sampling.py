"""Sampling: the one place where the next token is chosen and its log-probability computed.

`sample` takes the logits of all running sequences. Each sequence has a `Sampler`: logits processors (token
rules and penalties, in transformers' order), then either the argmax, or the warpers (temperature, top-k,
top-p, min-p) and a draw from the sequence's own random generator. Log-probabilities are the model's own,
before processors and warpers.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from engine.confidence import TOP_K
from engine.generation.penalties import Penalties
from engine.generation.token_rules import TokenRules
from engine.options import GenerationOptions

# What transformers' warpers get as input ids; they do not read them.
_UNREAD: Any = torch.empty(1, 0, dtype=torch.long)

# The most likely tokens at one position, (token id, log-probability), most likely first.
TopTokens = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class SampledToken:
    """A token that was chosen.

    Attributes:
        token: its id.
        logprob: natural log-probability by the model's logits.
        top: the most likely tokens at its position, as many as its sampler asks for.
        margin: the probability of the most likely token at its position minus that of the second; None if
            its sampler does not ask for it.
        entropy: of the whole distribution at its position, in nats; None if its sampler does not ask for it.
    """

    token: int
    logprob: float
    top: TopTokens
    margin: float | None = None
    entropy: float | None = None


class Sampler:
    """Chooses the tokens of one sequence by its options.

    Attributes:
        evidence: what is recorded of each token besides its log-probability: fields of `Evidence`.
    """

    def __init__(
        self, options: GenerationOptions, repetition_penalty: float, end_tokens: Collection[int] = ()
    ) -> None:
        """Call `restart` before the first token.

        Args:
            repetition_penalty: of the checkpoint; the options' own takes precedence.
            end_tokens: the tokens that end the sequence.
        """
        self._options = options
        self._rules = TokenRules(options, end_tokens)
        self._penalties = Penalties(
            options.repetition_penalty or repetition_penalty,
            options.frequency_penalty,
            options.presence_penalty,
        )
        self._warpers = _warpers(options) if options.sampled else None
        self.evidence = options.evidence

    def restart(self, prompt: Sequence[int]) -> None:
        """Starts an answer to a prompt of token ids."""
        self._rules.restart(prompt)
        self._penalties.restart(prompt)
        # On the CPU, whatever the model's device: a seed gives the same answer on each of them.
        self._generator = torch.Generator()
        if self._options.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(self._options.seed)

    @property
    def plain(self) -> bool:
        """Whether the next token is the argmax of the unprocessed logits."""
        return self._warpers is None and not self._penalties and not self._rules

    @property
    def top_count(self) -> int:
        """Number of most likely tokens to record with the next token."""
        # At each position: which token is the first of the answer is known only after its reasoning.
        first = TOP_K if "first_top" in self.evidence else 0
        return max(first, self._options.top_logprobs)

    def __call__(self, scores: torch.Tensor) -> torch.Tensor:
        """Chooses the next token.

        Args:
            scores: (vocabulary,) logits, float32.

        Returns:
            () a token id.
        """
        scores = self._rules.masked(self._penalties(self._rules.biased(scores)))
        if self._warpers is None:
            return scores.argmax()
        probabilities = self._warpers(_UNREAD, scores[None])[0].softmax(-1)
        # One number of the sequence's generator per token, whatever runs beside it.
        mass = probabilities.cpu().double().cumsum(-1)
        drawn = torch.rand((), generator=self._generator, dtype=torch.float64)
        return torch.searchsorted(mass, drawn * mass[-1], right=True)

    def accept(self, token: int) -> None:
        """Takes note of a token that was appended to the sequence."""
        self._rules.add(token)
        self._penalties.add(token)


def sample(
    samplers: Sequence[Sampler | None], logits: torch.Tensor, scores: torch.Tensor | None = None
) -> list[SampledToken | None]:
    """Chooses the next token of each sequence.

    Args:
        samplers: one for each sequence; None for a sequence that has ended.
        logits: (sequences, vocabulary) the model's logits, which log-probabilities are computed from.
        scores: (sequences, vocabulary) the logits to choose by, where the checkpoint forces or suppresses
            tokens; None: `logits`.

    Returns:
        A token for each sequence; None where it has ended or its logits are not finite.
    """
    logits = logits.float()
    scores = logits if scores is None else scores.float()
    likeliest = _argmax(logits)
    highest = logits.gather(1, likeliest[:, None])
    shifted = logits - highest
    weights = shifted.exp()
    normalizer = weights.sum(1).log() + highest[:, 0]
    finite = normalizer.isfinite().tolist()
    samplers = [sampler if ok else None for sampler, ok in zip(samplers, finite, strict=True)]
    chosen = likeliest if scores is logits else _argmax(scores)
    for i, sampler in enumerate(samplers):
        if sampler is not None and not sampler.plain:
            chosen[i] = sampler(scores[i])
    tokens = chosen.tolist()
    logprobs = (logits.gather(1, chosen[:, None])[:, 0] - normalizer).tolist()
    counts = [0 if sampler is None else sampler.top_count for sampler in samplers]
    most = max(counts, default=0)
    best = logits.topk(min(most, logits.shape[1])) if most else None

    def top(i: int) -> TopTokens:
        if best is None or not counts[i]:
            return ()
        values = (best.values[i, : counts[i]] - normalizer[i]).tolist()
        return tuple(zip(best.indices[i, : counts[i]].tolist(), values, strict=True))

    def asking(field: str) -> list[int]:
        return [i for i, one in enumerate(samplers) if one is not None and field in one.evidence]

    margins = _of_rows(asking("margins"), _margins, logits, normalizer)
    entropies = _of_rows(asking("entropies"), _entropies, shifted, weights)
    return [
        None
        if sampler is None
        else SampledToken(tokens[i], logprobs[i], top(i), margins.get(i), entropies.get(i))
        for i, sampler in enumerate(samplers)
    ]


def _of_rows(
    rows: Sequence[int],
    measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    one: torch.Tensor,
    other: torch.Tensor,
) -> dict[int, float]:
    """A measure of some rows of two tensors, by row."""
    if not rows:
        return {}
    if len(rows) < len(one):
        one, other = one[rows], other[rows]
    return dict(zip(rows, measure(one, other).tolist(), strict=True))


def _margins(logits: torch.Tensor, normalizer: torch.Tensor) -> torch.Tensor:
    """(rows, vocabulary) → (rows,): the gap between the probabilities of the two most likely tokens."""
    best = _argmax(logits)[:, None]
    first = logits.gather(1, best)
    # In place, and back: a copy of the logits takes longer than all else here.
    second = logits.scatter_(1, best, -torch.inf).amax(1)
    logits.scatter_(1, best, first)
    return (first[:, 0] - normalizer).exp() - (second - normalizer).exp()


def _entropies(shifted: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """(rows, vocabulary) → (rows,): the entropy -Σ p log p, in nats.

    Args:
        shifted: log-probabilities, up to a number that is added to all of a row.
        weights: their exponentials; overwritten, for one more tensor of this size costs more than all else.
    """
    sums = weights.sum(1)
    totals = weights.mul_(shifted).sum(1)
    if totals.isnan().any():  # Of 0 · -inf.
        totals = weights.nan_to_num_(nan=0).sum(1)
    return sums.log() - totals / sums


def _argmax(scores: torch.Tensor) -> torch.Tensor:
    """(sequences, vocabulary) → (sequences,); on a CPU by numpy, which takes a tenth of torch's time."""
    if scores.device.type == "cpu":
        return torch.from_numpy(scores.numpy().argmax(-1))
    return scores.argmax(-1)


def _warpers(options: GenerationOptions) -> LogitsProcessorList:
    """transformers' logits warpers for a sampled sequence, in the order of its `generate`."""
    warpers: list[LogitsProcessor] = []
    if options.temperature not in (None, 1.0):
        warpers.append(TemperatureLogitsWarper(options.temperature))
    if options.top_k is not None:
        warpers.append(TopKLogitsWarper(options.top_k))
    if options.top_p is not None and options.top_p < 1:
        warpers.append(TopPLogitsWarper(options.top_p))
    if options.min_p is not None:
        warpers.append(MinPLogitsWarper(options.min_p))
    return LogitsProcessorList(warpers)
