"""Prompt lookup: what is drafted, and that a draft changes nothing but the number of passes."""

import random
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch

from engine.backends.local import LocalEngine
from engine.generation import continuous
from engine.generation.prompt_lookup import BUDGET, MAX_DRAFT, PER_GENERATED, PromptLookup
from engine.generation.sequence import Generated, TokenizedRequest
from tests import tiny
from tests.helpers.sequences import (
    BYTES,
    answer,
    finish,
    generator,
    poisoned,
    prompt,
    random_request,
    request,
    seen,
    steps,
    tokens,
)
from tests.helpers.talk import ask

pytestmark = pytest.mark.numeric

EVIDENCE = {
    "top_logprobs": 3,
    "confidence_methods": ("mean_entropy", "margin", "first_token", "top_k_mass"),
}


# What is drafted


@pytest.mark.parametrize("known", [[], [7], [1, 2], [1, 2, 3, 4, 5, 6], [1, 2, 3, 9, 3]])
def test_nothing_is_drafted_after_tokens_that_are_new(known: list[int]):
    assert PromptLookup(known).draft(9) == []


@pytest.mark.parametrize(
    ("known", "drafted"),
    [
        ([1, 2, 5, 6, 7, 8, 1, 2], [5, 6]),
        ([9, 1, 2, 5, 6, 7, 8, 9, 1, 2], [5, 6, 7]),
        ([1, 2, 5, 6, 0, 1, 2, 7, 8, 0, 1, 2], [7, 8, 0]),  # The latest occurrence.
        ([9, 1, 2, 5, 6, 7, 0, 1, 2, 8, 8, 8, 9, 1, 2], [5, 6, 7]),  # The longer n-gram goes first.
        ([4, 4, 4, 4], [4, 4, 4]),  # A repetition goes on.
        ([1, 2, 3, 1, 2, 3, 1, 2, 3], [1, 2, 3, 1, 2, 3]),
    ],
)
def test_the_draft_is_what_followed_and_as_long_as_the_match(known: list[int], drafted: list[int]):
    assert PromptLookup(known).draft(99) == drafted
    assert PromptLookup(known).draft(1) == drafted[:1]
    assert PromptLookup(known).draft(0) == []


def test_a_draft_that_was_right_is_followed_by_a_longer_one():
    text = list(range(100))
    growing = [*text, 200, 3, 4]
    lookup, lengths = PromptLookup(growing), []
    for _ in range(5):
        drafted = lookup.draft(99)
        lengths.append(len(drafted))
        growing += text[growing[-1] + 1 :][: len(drafted) + 1]
    assert growing[103:] == text[5 : 5 + len(growing) - 103]
    assert lengths == [2, 5, 11, MAX_DRAFT, MAX_DRAFT]


def test_nothing_is_drafted_after_the_end_of_drafting():
    lookup = PromptLookup([4, 4, 4, 4])
    lookup.stop()
    assert lookup.draft(9) == []


def test_drafts_that_are_rejected_are_bounded_and_those_that_are_right_come_back():
    chance = random.Random(1)
    growing = [chance.randrange(8) for _ in range(100)]
    lookup, drafted = PromptLookup(growing), 0
    for i in range(800):
        draft = lookup.draft(99)
        drafted += len(draft)
        growing.append(100 + i if draft else chance.randrange(8))
    assert BUDGET < drafted <= BUDGET + 800 * PER_GENERATED
    growing += [*range(20, 60), *range(20, 24)] * 10
    assert lookup.draft(99) == [24, 25, 26, 27]


# A draft changes no answer


@pytest.fixture
def right_and_wrong(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[list[int]]], list[int]]:
    """Makes drafts of known texts; some go on as the text does, others end otherwise.

    Called with prompts and their answers; returns the lengths of the drafts, as they are made.
    """

    def known(texts: list[list[int]]) -> list[int]:
        lengths: list[int] = []

        def draft(self: PromptLookup, most: int) -> list[int]:
            so_far = len(self._tokens)
            text = next(text for text in texts if text[:so_far] == self._tokens)
            drafted = text[so_far:][: min(most, len(lengths) % 7)]
            if drafted and len(lengths) % 3:
                drafted[-1] = drafted[-1] % 50 + 60
            lengths.append(len(drafted))
            return drafted

        monkeypatch.setattr(PromptLookup, "draft", draft)
        return lengths

    return known


def undrafted(model, requests: list[TokenizedRequest], **kwargs) -> list[Generated]:
    """What is generated for each request by itself, without drafts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(continuous, "MOST_DRAFTING", 0)
        return [answer(model, [one], **kwargs)[0] for one in requests]


def texts(requests: list[TokenizedRequest], answers: list[Generated]) -> list[list[int]]:
    """Prompts and their answers."""
    return [[*one.prompt, *given.token_ids] for one, given in zip(requests, answers, strict=True)]


def check(found: list[Generated], expected: list[Generated]) -> None:
    """Everything that is known of answers is the same."""
    for one, other in zip(found, expected, strict=True):
        assert (one.token_ids, one.stopped, one.error) == (other.token_ids, other.stopped, None)
        for name in ("logprobs", "margins", "entropies"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-4), name
        for name in ("top_logprobs", "likeliest"):
            values, others = (torch.tensor(getattr(given, name)) for given in (one, other))
            torch.testing.assert_close(values, others, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("architecture", [*tiny.IN_FLIGHT, *tiny.LAYERED])
def test_answers_and_their_evidence_are_those_without_drafts(right_and_wrong, architecture: str, count: int):
    model = tiny.random_model(architecture)
    requests = [random_request(n, 30, **EVIDENCE) for n in (3, 30, 41)[:count]]
    expected = undrafted(model, requests, eos=())
    lengths = right_and_wrong(texts(requests, expected))
    with seen(model) as passes:
        check(answer(model, requests, eos=()), expected)
    assert max(lengths) == 6
    assert len(passes) < 30


@pytest.mark.parametrize("architecture", ["gpt2", "mistral"])
def test_prompts_that_repeat_themselves_are_answered_as_without_drafts(architecture: str):
    model = tiny.random_model(architecture)
    first = prompt(12)
    own = tokens(model, [request(first, 20)], eos=())[0]
    requests = [
        request(first * 3, 40, **EVIDENCE),
        request([*first, *own, *first], 40, **EVIDENCE),
        request([5, 6] * 8, 40, **EVIDENCE),
    ]
    for together in (requests, requests[:1], requests[1:]):
        check(answer(model, together, eos=()), undrafted(model, together, eos=()))


def test_sequences_that_come_and_go_are_answered_as_without_drafts(right_and_wrong):
    model = tiny.random_model("llama")
    requests = [random_request(5 + i % 4, 8 + 5 * i % 11, salt=i % 3) for i in range(12)]
    # Sampled ones and those with penalties are not drafted.
    requests[4] = random_request(9, 14, salt=5, temperature=1.5, seed=3)
    requests[7] = random_request(8, 14, salt=6, repetition_penalty=1.7)
    expected = undrafted(model, requests)
    lengths = right_and_wrong(texts(requests, expected))
    run, sequences = generator(model), []
    for one in requests:
        sequences.append(run.add(one))
        for _ in range(len(sequences) % 4):
            run.step()
    finish(run)
    check([sequence.generated for sequence in sequences], expected)
    assert max(lengths) > 3


def test_the_next_turn_starts_from_what_was_accepted(right_and_wrong):
    model = tiny.random_model("mistral")
    first = random_request(20, 25)
    expected = undrafted(model, [first], eos=())
    follow = request([*texts([first], expected)[0], *prompt(9, salt=4)], 12)
    then = undrafted(model, [follow], eos=())
    right_and_wrong(texts([first, follow], expected + then))
    run = generator(model, eos=())
    run.add(first)
    finish(run)
    second = run.add(follow)
    finish(run)
    check([second.generated], then)
    assert second.cached_tokens == 20 + 25 - 1


@pytest.mark.parametrize("most", range(1, 10))
def test_the_model_is_not_asked_beyond_its_context_nor_the_answer_longer_than_allowed(most: int):
    model = tiny.random_model("gpt2", n_positions=24)
    one = request([5, 6] * 7 + [5], most)
    check(answer(model, [one], eos=()), undrafted(model, [one], eos=()))
    assert tokens(cycle(), [request([3, 4, 5, 6, 7, 3], most)], eos=()) == [([4, 5, 6, 7, 3] * 2)[:most]]


def cycle():
    """A model that answers 3 with 4, 4 with 5, and so on, and 7 with 3."""
    logits = torch.zeros(tiny.VOCABULARY, tiny.VOCABULARY)
    for token, following in pairwise([3, 4, 5, 6, 7, 3]):
        logits[token, following] = 10
    return tiny.scripted_model(logits)


def test_text_that_repeats_itself_takes_few_passes():
    model = cycle()
    with seen(model) as passes:
        (ids,) = tokens(model, [request([3], 200)], eos=())
    assert ids == ([4, 5, 6, 7, 3] * 40)[:200]
    assert len(passes) < 30


@pytest.mark.parametrize("live", [1, 3, 4])
def test_up_to_three_sequences_are_drafted(live: int):
    model = cycle()
    run = generator(model, eos=())
    for i in range(live):
        run.add(request([3 + i, *([3, 4, 5, 6, 7] * 3)], 40))
    assert (len(list(steps(run))) < 40) == (live < 4)


@pytest.mark.parametrize("end", range(1, 20))
def test_a_sequence_ends_within_a_draft_where_its_stop_says_so(end: int):
    calls: list[int] = []

    def stopping() -> Callable[[int], bool]:
        return lambda token: calls.append(token) or len(calls) == end

    (generated,) = answer(cycle(), [request([3, 4, 5, 6, 7, 3], 60, stopping)], eos=())
    assert generated.token_ids == calls == ([4, 5, 6, 7, 3] * 4)[:end]
    assert generated.stopped


def test_a_sequence_ends_within_a_draft_at_an_end_token():
    model = cycle()
    (generated,) = answer(model, [request([3, 4, 5, 6, 7, 9, 3, 4, 5, 6, 7, 9, 3, 4, 5], 60)], eos=[7])
    assert generated.token_ids == [6, 7]
    assert generated.stopped


def test_a_draft_whose_logits_are_no_numbers_costs_no_answer(monkeypatch: pytest.MonkeyPatch):
    poison = BYTES + 200
    model = poisoned(tiny.random_model("llama"), poison)
    requests = [request([min(token, poison - 1) for token in prompt(n, salt=n)], 15) for n in (9, 40, 45, 49)]
    expected = undrafted(model, requests, eos=())
    assert not any(given.error for given in expected)
    known = texts(requests, expected)

    def draft(self: PromptLookup, most: int) -> list[int]:
        text = next(text for text in known if text[: len(self._tokens)] == self._tokens)
        poisonous = [*text[len(self._tokens) :][:1], poison, poison, poison]
        return [] if self in stopped else poisonous[:most]

    stopped: list[PromptLookup] = []
    monkeypatch.setattr(PromptLookup, "draft", draft)
    monkeypatch.setattr(PromptLookup, "stop", lambda self: stopped.append(self))
    run = generator(model, eos=())
    sequences = [run.add(requests[0])]
    run.step()
    run.step()
    assert stopped == [sequences[0].lookup]
    # From now on four share an attention call, which is as long as the longest.
    sequences += [run.add(one) for one in requests[1:]]
    finish(run)
    check([sequence.generated for sequence in sequences], expected)


# Streaming


@pytest.mark.parametrize("options", [{}, {"stop": ("fg",)}, {"stop": ("bcdx", "g")}, {"max_new_tokens": 13}])
def test_deltas_of_several_tokens_are_the_text(monkeypatch: pytest.MonkeyPatch, options: dict):
    logits = torch.zeros(tiny.VOCABULARY, tiny.VOCABULARY)
    for token, following in pairwise(tiny.byte_tokenizer()("]abcdefgh]")["input_ids"]):
        logits[token, following] = 10
    engine = LocalEngine(tiny.loaded(tiny.scripted_model(logits)))
    question = ask("abcdefgh]abcdefgh]abcdefgh]", **{"max_new_tokens": 40} | options)
    chunks = list(engine.stream([question]))
    monkeypatch.setattr(continuous, "MOST_DRAFTING", 0)
    expected = list(engine.stream([question]))
    assert "".join(chunk.text for chunk in chunks) == "".join(chunk.text for chunk in expected)
    assert chunks[-1].answer.text == expected[-1].answer.text
    assert chunks[-1].answer.token_ids == expected[-1].answer.token_ids
    assert len(chunks) < len(expected)
