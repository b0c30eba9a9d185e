"""In flight, whatever rows come in whatever order: each gets what it gets alone, at every size of everything."""

import functools
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import inflight, slots
from engine.choosing import Decoding, Row
from tests import tiny
from tests.engine.rows import alone, answer, asks, prompt, rows_of

LONGEST_ANSWER = 14
# Of each kind of mask: learned positions, grouped heads, a window, experts.
ARCHITECTURES = ["gpt2", "llama", "mistral", "qwen3_moe"]


@functools.cache
def model(architecture: str):
    return tiny.random_model(architecture)


@functools.cache
def greedy(architecture: str, prompt: tuple[int, ...]) -> list[int]:
    """The longest answer that `model.generate` gives to a prompt; a shorter one is its beginning."""
    return alone(model(architecture), asks(prompt, LONGEST_ANSWER))


@dataclass(frozen=True)
class Asked:
    """A question of a conversation, and what comes after its answer.

    Attributes:
        length, salt: of the prompt; those of one salt begin alike.
        answer: the most tokens to generate.
        seed: of a sampled answer; None: a greedy one.
        wait: how many steps pass before the next row is added.
        follows: how many tokens longer than the conversation each of the next turns is.
    """

    length: int
    salt: int
    answer: int
    seed: int | None
    wait: int
    follows: tuple[int, ...]


asked = st.builds(
    Asked,
    length=st.integers(1, 70),
    salt=st.integers(0, 3),
    answer=st.integers(1, LONGEST_ANSWER),
    seed=st.none() | st.integers(0, 2),
    wait=st.integers(0, 6),
    follows=st.lists(st.integers(1, 20), max_size=2).map(tuple),
)
sizes = st.fixed_dictionaries(
    {
        "MAX_ROWS": st.integers(1, 6),
        "PREFILL_TOKENS": st.integers(2, 40),
        "BLOCK": st.sampled_from([1, 8, 64]),
        "WORTH_WAITING": st.sampled_from([1, 8, 32]),
    }
)


def row(tokens, one: Asked) -> Row:
    sampled = {} if one.seed is None else {"temperature": 1.5, "seed": one.seed}
    return asks(tokens, one.answer, **sampled)


def converse(architecture: str, conversations: list[Asked]) -> list[Decoding]:
    """Every row of some conversations that come one by one, their turns asked as soon as they can be."""
    run = rows_of(model(architecture))
    decodings: list[Decoding] = []
    following: dict[Decoding, tuple[Asked, tuple[int, ...]]] = {}

    def add(tokens, one: Asked, follows: tuple[int, ...], soon: bool) -> None:
        decodings.append(run.add(row(tokens, one), soon))
        following[decodings[-1]] = one, follows

    def step() -> None:
        for decoding in run.step():
            if not decoding.live:
                one, follows = following.pop(decoding)
                if follows:
                    more = prompt(100 + follows[0], salt=one.salt)[100:]
                    add([*decoding.tokens, *more], one, follows[1:], soon=True)
        assert run.live <= inflight.MAX_ROWS

    for one in conversations:
        add(prompt(one.length, one.salt), one, one.follows, soon=False)
        for _ in range(one.wait):
            if run.busy:
                step()
    while run.busy:
        step()
    assert not following
    return decodings


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(conversations=st.lists(asked, min_size=1, max_size=9), sizes=sizes)
def test_each_row_equals_its_run_alone(architecture: str, conversations: list[Asked], sizes: dict[str, int]):
    with pytest.MonkeyPatch.context() as patch:
        for name, size in sizes.items():
            patch.setattr(inflight, name, size)
        patch.setattr(slots, "BLOCK", sizes["BLOCK"])
        decodings = converse(architecture, conversations)
    for decoding in decodings:
        one, tokens = decoding.row, decoding.generated.token_ids
        assert decoding.generated.error is None
        if one.options.sampled:
            assert tokens == answer(model(architecture), [one])[0].token_ids
        else:
            assert tokens == greedy(architecture, tuple(one.prompt))[: one.max_new_tokens]


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    conversations=st.lists(asked, min_size=2, max_size=8),
    sizes=sizes,
    memory=st.integers(1, 400),
)
def test_whatever_memory_there_is_no_row_is_lost(
    conversations: list[Asked], sizes: dict[str, int], memory: int
):
    with pytest.MonkeyPatch.context() as patch:
        for name, size in sizes.items():
            patch.setattr(inflight, name, size)
        patch.setattr(slots, "BLOCK", sizes["BLOCK"])
        patch.setattr(inflight, "free_memory", lambda device: 320 * memory)
        decodings = converse("llama", conversations)
    for decoding in decodings:
        one, generated = decoding.row, decoding.generated
        assert generated.error is None
        if not one.options.sampled:
            assert generated.token_ids == greedy("llama", tuple(one.prompt))[: one.max_new_tokens]
