"""Continuous batching, whatever requests come in whatever order: each gets what it gets alone."""

import functools
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.generation import continuous, forward_batch, kv_cache
from engine.generation.continuous import ContinuousBatching
from engine.generation.sequence import SequenceState
from tests import tiny
from tests.helpers.sequences import finish, kv_token_bytes, prompt, request, steps

pytestmark = pytest.mark.numeric

LONGEST_ANSWER = 7
SAMPLED = {"temperature": 1.5, "seed": 3}


@functools.cache
def model(architecture: str):
    return tiny.random_model(architecture)


@functools.cache
def size(architecture: str) -> int:
    return kv_token_bytes(model(architecture))


def run_of(architecture: str) -> ContinuousBatching:
    return ContinuousBatching(model(architecture), frozenset(tiny.ENDS), size(architecture))


@functools.cache
def expected(architecture: str, prompt: tuple[int, ...], sampled: bool) -> list[int]:
    """The longest answer to a prompt by itself; a shorter one is its prefix."""
    run = run_of(architecture)
    sequence = run.add(request(prompt, LONGEST_ANSWER, **(SAMPLED if sampled else {})))
    finish(run)
    return sequence.generated.token_ids


@dataclass(frozen=True)
class Asked:
    """A question of a conversation, and what comes after its answer.

    Attributes:
        length, salt: of the prompt; those of one salt begin alike.
        answer: the most tokens to generate.
        sampled: whether the answer is drawn.
        wait: how many steps pass before the next request is added.
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
        "MAX_SEQUENCES": st.integers(1, 6),
        "PREFILL_BUDGET": st.integers(2, 40),
        "BLOCK": st.sampled_from([1, 8, 64]),
        "DEFER_TOKENS": st.sampled_from([1, 8, 32]),
        "CALL_BYTES": st.sampled_from([0, 500, 5_000, 1_000_000]),
    }
)


def converse(architecture: str, conversations: list[Asked]) -> list[SequenceState]:
    """Every sequence of some conversations that come one by one; their next turns go to the front."""
    run = run_of(architecture)
    sequences: list[SequenceState] = []
    following: dict[SequenceState, tuple[Asked, tuple[int, ...]]] = {}

    def add(tokens, one: Asked, follows: tuple[int, ...], front: bool) -> None:
        sequences.append(run.add(request(tokens, one.answer, **(SAMPLED if one.sampled else {})), front))
        following[sequences[-1]] = one, follows

    def note(news: list[SequenceState]) -> None:
        for sequence in news:
            if not sequence.running:
                one, follows = following.pop(sequence)
                if follows:
                    more = prompt(100 + follows[0], salt=one.salt)[100:]
                    add([*sequence.tokens, *more], one, follows[1:], front=True)
        assert run.num_running <= continuous.MAX_SEQUENCES

    for one in conversations:
        add(prompt(one.length, one.salt), one, one.follows, front=False)
        for _ in range(one.wait):
            if run.busy:
                note(run.step())
    for news in steps(run):
        note(news)
    assert not following
    return sequences


def check(architecture: str, conversations: list[Asked], sizes: dict[str, int]) -> None:
    """Every sequence of some conversations equals its run alone, with the constants set to these sizes."""
    with pytest.MonkeyPatch.context() as patch:
        for name, size in sizes.items():
            for module in (continuous, kv_cache, forward_batch):
                if hasattr(module, name):
                    patch.setattr(module, name, size)
        # A step that fails is recomputed with fewer sequences: the answers would not show it.
        patch.setattr(continuous.logger, "warning", pytest.fail)
        sequences = converse(architecture, conversations)
    # Here, where everything has its usual size again.
    for sequence in sequences:
        one, generated = sequence.request, sequence.generated
        longest = expected(architecture, tuple(one.prompt), one.options.sampled)
        assert generated.error is None
        assert generated.token_ids == longest[: one.max_new_tokens]


conversations = st.lists(asked, min_size=1, max_size=7)


@settings(max_examples=24, deadline=None, derandomize=True)
@given(conversations=conversations, sizes=sizes)
def test_each_sequence_equals_its_run_alone(conversations: list[Asked], sizes: dict[str, int]):
    check("llama", conversations, sizes)


@pytest.mark.parametrize("architecture", ["gpt2", "mistral", "qwen3_moe"])
@settings(max_examples=5, deadline=None, derandomize=True)
@given(conversations=conversations, sizes=sizes)
def test_each_sequence_equals_its_run_alone_with_any_mask(architecture: str, conversations, sizes):
    check(architecture, conversations, sizes)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(conversations=conversations, sizes=sizes, memory=st.integers(1, 400))
def test_whatever_memory_there_is_no_sequence_is_lost(conversations, sizes: dict[str, int], memory: int):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(continuous, "usable_memory", lambda device: memory * size("llama"))
        check("llama", conversations, sizes)
