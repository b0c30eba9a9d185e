"""A request whose caller has gone leaves the batch at the next step; the other answers stay as they are."""

from dataclasses import replace

import pytest

from engine.backends.local import LocalEngine
from engine.errors import Cancelled
from engine.types import Request
from tests import tiny
from tests.helpers.endpoint_engines import Engines, engines, environment, server
from tests.helpers.servers.misbehaving import Server, held
from tests.helpers.talk import ask

__all__ = ["engines", "environment", "server"]


@pytest.fixture(scope="module")
def local() -> LocalEngine:
    return tiny.engine("llama", eos_token_id=tiny.EOS)


def test_a_running_sequence_leaves_at_the_next_step(local: LocalEngine):
    gone: list[str] = []
    requests = [ask("x" * 9, max_new_tokens=40), ask("y" * 5, max_new_tokens=40)]
    expected = local.generate(requests)
    requests[0] = replace(requests[0], cancelled=lambda: bool(gone))
    after, answers = 0, {}
    for chunk in local.stream(requests):
        if chunk.answer is not None:
            answers[chunk.index] = chunk.answer
        elif chunk.index == 0:
            after += bool(gone)
            gone.append(chunk.text)
    assert after <= 1, "its step had begun"
    assert isinstance(answers[0].error, Cancelled)
    assert answers[1] == expected[1]


def test_a_waiting_sequence_never_runs(local: LocalEngine):
    [first, second] = local.generate([replace(ask("Hi"), cancelled=lambda: True), ask("Hi")])
    assert isinstance(first.error, Cancelled)
    assert second.error is None


def test_a_slot_is_free_for_the_next_request(local: LocalEngine, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("engine.generation.continuous.MAX_SEQUENCES", 1)
    gone: list[str] = []
    endless = replace(ask("x" * 9, max_new_tokens=400), cancelled=lambda: bool(gone))
    order = []
    for chunk in local.stream([endless, ask("y", max_new_tokens=2)]):
        gone.append(chunk.text)
        if chunk.answer is not None:
            order.append((chunk.index, type(chunk.answer.error)))
    assert order == [(0, Cancelled), (1, type(None))]


def test_what_follows_is_cancelled_too(local: LocalEngine):
    gone: list[int] = []
    again = replace(ask("Hi", max_new_tokens=3), cancelled=lambda: bool(gone))

    def follow(index: int, answer: object) -> Request | None:
        gone.append(index)
        return again if len(gone) == 1 else None

    answers = [chunk.answer for chunk in local.stream([again], follow) if chunk.answer]
    assert [type(answer.error) for answer in answers] == [type(None), Cancelled]


def test_static_batches_leave_out_who_has_gone():
    bart = tiny.engine("bart")
    [gone, stays] = bart.generate([replace(ask("Hi"), cancelled=lambda: True), ask("Hi", max_new_tokens=3)])
    assert isinstance(gone.error, Cancelled)
    assert stays.error is None


def test_a_server_is_hung_up_on(engines: Engines, server: Server):
    server.will(held)
    engine = engines(max_concurrent=1)
    requests = [replace(ask("a"), cancelled=lambda: bool(server.asked)), ask("word")]
    [first, second] = engine.generate(requests)
    assert isinstance(first.error, Cancelled)
    assert second.text == "WORD"
    assert server.left.wait(5)


def test_tokens_of_the_prompt_that_were_cached_are_counted(local: LocalEngine):
    asked = [ask("a question of some length, asked twice", max_new_tokens=count) for count in (2, 3)]
    first, again = (answer.usage for answer in local.generate(asked))
    assert first.cached_tokens == 0
    assert again.cached_tokens == again.prompt_tokens - 1
