"""What follows an answer is asked at once, and what was computed before it is not computed again."""

import pytest

from engine.backends.local import LocalEngine
from engine.generation import continuous
from engine.options import GenerationOptions
from engine.types import Answer, Request
from tests import tiny
from tests.helpers.sequences import seen
from tests.helpers.talk import ask, said

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    return tiny.engine("llama")


def tokens_seen(engine: LocalEngine, requests: list[Request], follow=None) -> int:
    """How many tokens the model computes to answer."""
    assert engine.batching.kv_token_bytes
    with seen(engine.loaded.model) as passes:
        engine.generate(requests, follow)
    return sum(ids.numel() for ids in passes)


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_what_follows_is_answered_as_if_asked_by_itself_and_told_to_follow_alone(architecture: str):
    engine = tiny.engine(architecture)
    conversations = [
        [ask(f"{i}{turn} " * (1 + i), max_new_tokens=4 + 3 * i + turn) for turn in range(turns)]
        for i, turns in enumerate([1, 2, 3])
    ]
    told: list[list[Answer]] = [[], [], []]

    def follow(i: int, answer: Answer) -> Request | None:
        told[i].append(answer)
        return next(iter(conversations[i][len(told[i]) :]), None)

    answers = engine.generate([first for first, *_ in conversations], follow)
    assert answers == [given[0] for given in told]
    for given, conversation in zip(told, conversations, strict=True):
        alone = [engine.generate([request])[0] for request in conversation]
        assert [answer.token_ids for answer in given] == [answer.token_ids for answer in alone]


@pytest.mark.parametrize("architecture", ["llama", "bloom"])
def test_a_question_that_cannot_be_asked_is_told_to_follow_too(architecture: str):
    engine, told = tiny.engine(architecture, eos_token_id=tiny.PAD), []
    nothing = Request((), GenerationOptions())

    def follow(i: int, answer: Answer) -> Request | None:
        told.append((i, answer.finish_reason))
        return nothing if answer.error is None else None

    engine.generate([ask("Hello", max_new_tokens=2), nothing], follow)
    assert sorted(told) == [(0, "error"), (0, "length"), (1, "error")]


def test_a_second_turn_does_not_wait_for_the_others_first(engine: LocalEngine):
    order = []

    def follow(i: int, answer: Answer) -> Request | None:
        order.append(i)
        return ask("again", max_new_tokens=3) if order.count(i) < 3 else None

    engine.generate([ask("one", max_new_tokens=60), ask("two", max_new_tokens=3)], follow)
    assert order[:3] == [1, 1, 1]


def test_a_second_turn_goes_before_conversations_that_have_not_begun(engine: LocalEngine, monkeypatch):
    monkeypatch.setattr(continuous, "MAX_SEQUENCES", 1)
    order = []

    def follow(i: int, answer: Answer) -> Request | None:
        order.append(i)
        return ask("again", max_new_tokens=3) if order.count(i) < 2 else None

    engine.generate([ask(text, max_new_tokens=3) for text in ("one", "two", "three")], follow)
    assert order == [0, 0, 1, 1, 2, 2]


def test_the_next_turn_of_a_conversation_reads_what_is_new_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(continuous, "MOST_DRAFTING", 0)  # Rejected drafts are read, too.
    speller = LocalEngine(tiny.loaded(tiny.spelling_model("grün")))
    history = [said("Go on"), said("Go on", "grün", "More")]
    prompts = [speller.prompter.encode(messages, GenerationOptions()) for messages in history]

    def follow(i: int, answer: Answer) -> Request | None:
        return Request(history.pop(), GenerationOptions()) if len(history) == 2 else None

    answered = len("grün".encode()) + 1
    # The last token of all is not read.
    assert tokens_seen(speller, [ask("Go on")], follow) == len(prompts[1]) + answered - 1


def test_a_system_prompt_is_computed_once_for_all():
    engine = tiny.engine("llama", eos_token_id=tiny.PAD)
    system = "Answer in one word. " * 10
    requests = [ask(f"{i}" * 9, system_prompt=system, max_new_tokens=3) for i in range(12)]
    prompts = [engine.prompter.encode(one.messages, one.options) for one in requests]
    shared = len(f"<[system]{system}<[user]")
    assert tokens_seen(engine, requests) == shared + sum(len(prompt) - shared + 3 - 1 for prompt in prompts)


def test_equal_requests_read_their_prompt_once_and_differ_by_their_seeds():
    engine = tiny.engine("llama", eos_token_id=tiny.PAD)
    requests = [ask("Tell me " * 8, temperature=2.0, seed=seed, max_new_tokens=6) for seed in range(5, 10)]
    prompt = engine.prompter.encode(requests[0].messages, requests[0].options)
    assert tokens_seen(engine, requests) == len(prompt) + 4 + 5 * (6 - 1)
    assert len({answer.token_ids for answer in engine.generate(requests)}) == 5


def test_no_more_prompts_are_written_ahead_than_can_be_asked_soon(engine: LocalEngine, monkeypatch):
    written, encode = [], engine.prompter.encode
    monkeypatch.setattr(engine.prompter, "encode", lambda *args: written.append(args) or encode(*args))
    requests = [ask("x", max_new_tokens=1) for _ in range(300)]
    first = next(engine.stream(requests))
    assert first.answer is not None
    assert len(written) < 150
