"""What every contender is given: conversations with forced answer lengths, multiple choice, texts."""

import random
from dataclasses import dataclass

from engine.types import Message

QUESTION_TOKENS = (10, 150)
ANSWER_TOKENS = (20, 128)
# Of the lengths: 3742 tokens in 64 answers, and a longest conversation (204) neither short nor extreme.
SEED = 9


@dataclass(frozen=True, slots=True)
class Turn:
    """A question as token ids, and how many tokens its answer has."""

    question: list[int]
    length: int

    @property
    def message(self) -> Message:
        """The question as text."""
        return Message("user", (words(self.question),))


Conversation = list[Turn]
Answers = list[list[list[int]]]  # Token ids by conversation and turn.


def conversations(
    count: int, turns: int, vocabulary: int, shorten: int = 1, seed: int = 0
) -> list[Conversation]:
    """Conversations with heavy-tailed lengths of questions and answers, the same at every call.

    Args:
        shorten: divides all lengths.
        seed: of the words, not of the lengths.
    """
    lengths, draw = random.Random(SEED), random.Random(seed)
    return [
        [
            Turn(
                tokens(draw, heavy_tailed(lengths, QUESTION_TOKENS, 45) // shorten, vocabulary),
                heavy_tailed(lengths, ANSWER_TOKENS, 43) // shorten,
            )
            for _ in range(turns)
        ]
        for _ in range(count)
    ]


def mean_context(given: list[Conversation]) -> float:
    """How many tokens are in a row's cache when it decodes a token, on average."""
    contexts = []
    for conversation in given:
        length = 0
        for turn in conversation:
            length += len(turn.question)
            contexts += range(length, length + turn.length)
            length += turn.length
    return sum(contexts) / len(contexts)


def answer_tokens(given: list[Conversation]) -> int:
    """Tokens of all answers."""
    return sum(turn.length for conversation in given for turn in conversation)


def choices(count: int, candidates: int, vocabulary: int) -> list[tuple[str, list[str]]]:
    """Prompts of 10 to 150 words, each with candidates of 1 to 8 words."""
    draw = random.Random(1)
    return [
        (
            words(tokens(draw, heavy_tailed(draw, QUESTION_TOKENS, 30), vocabulary)),
            [words(tokens(draw, draw.randint(1, 8), vocabulary)) for _ in range(candidates)],
        )
        for _ in range(count)
    ]


def texts(count: int, vocabulary: int) -> list[str]:
    """Texts of 10 to 400 words, few of them long."""
    draw = random.Random(2)
    return [words(tokens(draw, heavy_tailed(draw, (10, 400), 60), vocabulary)) for _ in range(count)]


def words(ids: list[int]) -> str:
    """Token ids as the tokenizer's text."""
    return " ".join(f"w{i}" for i in ids)


def tokens(draw: random.Random, length: int, vocabulary: int) -> list[int]:
    """Random token ids but for 0, which pads."""
    return [draw.randrange(1, vocabulary) for _ in range(length)]


def heavy_tailed(draw: random.Random, bounds: tuple[int, int], tail: float) -> int:
    """The lower bound and an exponential tail of this mean, cut at the upper bound."""
    low, high = bounds
    return min(high, low + int(draw.expovariate(1 / tail)))
