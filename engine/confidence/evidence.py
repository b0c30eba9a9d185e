"""What a confidence is computed from."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Samples:
    """Other answers to the same question, drawn at random.

    Attributes:
        answer: the answer whose confidence is computed.
        texts: the sampled answers; those that failed are left out.
        clusters: for each of `texts` the number of its cluster: texts of one cluster mean the same. Empty
            where no method needs them.
    """

    answer: str
    texts: tuple[str, ...]
    clusters: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was recorded of an answer. A field that no chosen method needs is empty.

    Attributes:
        logprobs: natural log-probability of each generated token by the model's own logits, EOS included.
        first_top: natural log-probabilities of the most likely first tokens, the most likely one first.
        margins: for each generated token the probability of the most likely token at its position minus that
            of the second most likely.
        entropies: for each generated token the entropy of the whole distribution at its position, in nats.
        samples: sampled answers.
        p_true: the probability that the model gives to "True" when asked whether the answer is right.
        judge: the probability that a second model gives to "Yes" when asked whether the answer is good.
    """

    logprobs: Sequence[float] = ()
    first_top: Sequence[float] = ()
    margins: Sequence[float] = ()
    entropies: Sequence[float] = ()
    samples: Samples | None = None
    p_true: float | None = None
    judge: float | None = None
