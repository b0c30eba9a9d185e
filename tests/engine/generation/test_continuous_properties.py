"""In flight, whatever rows come in whatever order: each gets what it gets alone."""

import functools
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.generation import continuous, kv_cache, step
from engine.generation.continuous import InFlight
from engine.generation.sampling import Decoding
from tests import tiny
from tests.helpers.rows import asks, finish, measured, prompt, steps

pytestmark = pytest.mark.numeric

LONGEST_ANSWER = 7
SAMPLED = {"temperature": 1.5, "seed": 3}


@functools.cache
def model(architecture: str):
    return tiny.random_model(architecture)


@functools.cache
def size(architecture: str) -> int:
    return measured(model(architecture))


def run_of(architecture: str) -> InFlight:
    return InFlight(model(architecture), frozenset(tiny.ENDS), size(architecture))


@functools.cache
def expected(architecture: str, prompt: tuple[int, ...], sampled: bool) -> list[int]:
    """The longest answer to a prompt by itself; a shorter one is its beginning."""
    run = run_of(architecture)
    decoding = run.add(asks(prompt, LONGEST_ANSWER, **(SAMPLED if sampled else {})))
    finish(run)
    return decoding.generated.token_ids


@dataclass(frozen=True)
class Asked:
    """A question of a conversation, and what comes after its answer.

    Attributes:
        length, salt: of the prompt; those of one salt begin alike.
        answer: the most tokens to generate.
        sampled: whether the answer is drawn.
        wait: how many steps pass before the next row is added.
        follows: how many tokens longer than the conversation each of the next turns is.
    """

    length: int
    salt: int
    answer: int
    sampled: bool
    wait: int
    follows: tuple[int, ...]


asked = st.builds(
    Asked,
    length=st.sampled_from([1, 2, 7, 16, 17, 40, 65]),
    salt=st.integers(0, 2),
    answer=st.integers(1, LONGEST_ANSWER),
    sampled=st.booleans(),
    wait=st.integers(0, 6),
    follows=st.lists(st.sampled_from([1, 5, 20]), max_size=2).map(tuple),
)
sizes = st.fixed_dictionaries(
    {
        "MAX_ROWS": st.integers(1, 6),
        "PREFILL_TOKENS": st.integers(2, 40),
        "BLOCK": st.sampled_from([1, 8, 64]),
        "WORTH_WAITING": st.sampled_from([1, 8, 32]),
        "CALL_BYTES": st.sampled_from([0, 500, 5_000, 1_000_000]),
    }
)


def converse(architecture: str, conversations: list[Asked]) -> list[Decoding]:
    """Every row of some conversations that come one by one, their turns asked as soon as they can be."""
    run = run_of(architecture)
    decodings: list[Decoding] = []
    following: dict[Decoding, tuple[Asked, tuple[int, ...]]] = {}

    def add(tokens, one: Asked, follows: tuple[int, ...], soon: bool) -> None:
        decodings.append(run.add(asks(tokens, one.answer, **(SAMPLED if one.sampled else {})), soon))
        following[decodings[-1]] = one, follows

    def note(news: list[Decoding]) -> None:
        for decoding in news:
            if not decoding.live:
                one, follows = following.pop(decoding)
                if follows:
                    more = prompt(100 + follows[0], salt=one.salt)[100:]
                    add([*decoding.tokens, *more], one, follows[1:], soon=True)
        assert run.live <= continuous.MAX_ROWS

    for one in conversations:
        add(prompt(one.length, one.salt), one, one.follows, soon=False)
        for _ in range(one.wait):
            if run.busy:
                note(run.step())
    for news in steps(run):
        note(news)
    assert not following
    return decodings


def check(architecture: str, conversations: list[Asked], sizes: dict[str, int]) -> None:
    """Every row of some conversations equals its run alone, where everything has these sizes."""
    with pytest.MonkeyPatch.context() as patch:
        for name, size in sizes.items():
            for module in (continuous, kv_cache, step):
                if hasattr(module, name):
                    patch.setattr(module, name, size)
        # An error in a step is made good for by fewer rows: it would not be seen in the answers.
        patch.setattr(continuous.logger, "warning", pytest.fail)
        decodings = converse(architecture, conversations)
    # Here, where everything has its usual size again.
    for decoding in decodings:
        one, generated = decoding.row, decoding.generated
        longest = expected(architecture, tuple(one.prompt), one.options.sampled)
        assert generated.error is None
        assert generated.token_ids == longest[: one.max_new_tokens]


conversations = st.lists(asked, min_size=1, max_size=7)


@settings(max_examples=24, deadline=None, derandomize=True)
@given(conversations=conversations, sizes=sizes)
def test_each_row_equals_its_run_alone(conversations: list[Asked], sizes: dict[str, int]):
    check("llama", conversations, sizes)


@pytest.mark.parametrize("architecture", ["gpt2", "mistral", "qwen3_moe"])
@settings(max_examples=5, deadline=None, derandomize=True)
@given(conversations=conversations, sizes=sizes)
def test_each_row_equals_its_run_alone_with_any_mask(architecture: str, conversations, sizes):
    check(architecture, conversations, sizes)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(conversations=conversations, sizes=sizes, memory=st.integers(1, 400))
def test_whatever_memory_there_is_no_row_is_lost(conversations, sizes: dict[str, int], memory: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(continuous, "free_memory", lambda device: memory * size("llama"))
        check("llama", conversations, sizes)
