"""Methods that cost no extra pass: they read what was recorded while the answer was generated.

Each takes one number per generated token, the end token included. p_i is the probability of the i-th token
of n, H_i the entropy of the whole distribution at its position in nats.
"""

import math
from collections.abc import Sequence


def mean_logprob(logprobs: Sequence[float]) -> float:
    """exp(Σ log p_i / n): the geometric mean of the tokens' probabilities, 1 / perplexity.

    It does not depend on the length, and one unlikely token among many hardly lowers it. The exponential of
    lm-polygraph's `Perplexity` with the opposite sign (Fomicheva et al. 2020).
    """
    return math.exp(sum(logprobs) / len(logprobs))


def sequence(logprobs: Sequence[float]) -> float:
    """Π p_i: the probability of the whole answer.

    A longer answer has a lower one. The exponential of lm-polygraph's `MaximumSequenceProbability` with the
    opposite sign.
    """
    return math.exp(sum(logprobs))


def min_token(logprobs: Sequence[float]) -> float:
    """min p_i: the probability of the least likely token (Manakul et al. 2023, SelfCheckGPT, max(-log p))."""
    return math.exp(min(logprobs))


def first_token(logprobs: Sequence[float]) -> float:
    """p_1: the probability of the first token, which decides an answer such as "yes" or "B"."""
    return math.exp(logprobs[0])


def mean_entropy(entropies: Sequence[float]) -> float:
    """exp(-Σ H_i / n): 1 where the model saw one choice at each position, 1/k where it saw k equal ones.

    The exponential of lm-polygraph's `MeanTokenEntropy` with the opposite sign (Fomicheva et al. 2020).
    """
    return math.exp(-sum(entropies) / len(entropies))


def max_entropy(entropies: Sequence[float]) -> float:
    """exp(-max H_i): by the least certain position (Manakul et al. 2023, SelfCheckGPT, max(H)).

    The exponential of the largest value of lm-polygraph's `TokenEntropy` with the opposite sign; that one
    leaves the end token out.
    """
    return math.exp(-max(entropies))


def margin(margins: Sequence[float]) -> float:
    """The smallest gap between the two most likely tokens of a position (Scheffer et al. 2001, per token)."""
    return min(margins)


def top_k_mass(first_top: Sequence[float]) -> float:
    """The total probability of the k most likely first tokens, as earlier Dataloop adapters reported it.

    It measures how peaked the first token's distribution is, not how likely the answer is: k equally likely
    tokens with no probability elsewhere give 1.0.
    """
    return sum(map(math.exp, first_top))
