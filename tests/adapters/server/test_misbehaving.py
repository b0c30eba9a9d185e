"""Clients that hang up, stall, or are too many: each costs the others nothing."""

import json
import resource
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from engine.backends.local import LocalEngine
from engine.generation import continuous
from tests import tiny
from tests.adapters.server.prompts import CAPITAL, PARIS
from tests.helpers.servers.ours import Ours, adapter_of, request_bytes, serving

CHAT = "/v1/chat/completions"
LENGTH = 100_000
# Its answer takes minutes.
ENDLESS = {"messages": CAPITAL, "max_tokens": LENGTH - 500}
SHORT = {"messages": CAPITAL, "max_tokens": 3}
CROWD = 1000


@pytest.fixture(scope="module")
def slow() -> LocalEngine:
    """An engine that writes until its window is full."""
    return tiny.engine("llama", max_position_embeddings=LENGTH, eos_token_id=tiny.PAD)


@pytest.fixture
def one_slot(slow: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ours]:
    """A server that generates one answer at a time, and has room for four."""
    monkeypatch.setattr(continuous, "MAX_SEQUENCES", 1)
    with serving(adapter_of(slow), max_requests=4) as server:
        yield server


@pytest.mark.parametrize("stream", [True, False])
def test_who_hangs_up_frees_the_place_of_its_answer(one_slot: Ours, stream: bool):
    with one_slot.connect() as connection:
        connection.sendall(request_bytes(ENDLESS | {"stream": stream}))
        if stream:
            assert b" 200 " in connection.recv(1000)
        while "llm_requests_running 1.0" not in one_slot.get("/metrics").text:
            pass
    # There is one place: this answer comes once the other one has left it.
    assert one_slot.post(CHAT, SHORT).status == 200
    metrics = one_slot.get("/metrics").text
    assert "llm_requests_running 0.0" in metrics
    assert 'llm_requests_total{finish_reason="error"} 1.0' in metrics


def test_who_waits_and_hangs_up_is_not_answered(one_slot: Ours):
    with one_slot.connect() as running:
        running.sendall(request_bytes(ENDLESS | {"stream": True}))
        assert b" 200 " in running.recv(1000)
        with one_slot.connect() as waiting:
            waiting.sendall(request_bytes(SHORT))
    assert one_slot.post(CHAT, SHORT).status == 200


def test_a_full_queue_says_when_to_ask_again(one_slot: Ours):
    with ExitStack() as stack:
        connections = [stack.enter_context(one_slot.connect()) for _ in range(4)]
        for connection in connections:
            connection.sendall(request_bytes(ENDLESS | {"stream": True}))
        assert b" 200 " in connections[0].recv(1000)
        reply = one_slot.post(CHAT, SHORT | {"n": 4, "temperature": 1})
        assert (reply.status, reply.error["code"]) == (429, "rate_limit_exceeded")
        assert int(reply.headers["retry-after"]) >= 1
        assert one_slot.get("/health").status == 200
    while (reply := one_slot.post(CHAT, SHORT)).status == 429:
        pass  # Until the server has seen them hang up.
    assert reply.status == 200


def test_more_answers_than_the_queue_has_room_for_are_refused_at_once(one_slot: Ours):
    assert one_slot.post(CHAT, SHORT | {"n": 5, "temperature": 1}).status == 429


def test_a_thousand_who_stall_send_half_or_hang_up_leave_it_answering(talk: Ours):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    half = request_bytes({"messages": CAPITAL}, length=1000)
    sent = [b"", b"POST ", half, request_bytes({"messages": CAPITAL, "stream": True}), b"\x00\xff\r\n\r\n"]
    try:
        with ExitStack() as stack:
            for i in range(CROWD):
                connection = stack.enter_context(talk.connect())
                connection.sendall(sent[i % len(sent)])
                if i % 2:
                    connection.close()
            reply = talk.post(CHAT, {"messages": CAPITAL})
            assert reply.body["choices"][0]["message"]["content"] == PARIS
            assert talk.get("/health").status == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_who_sends_nothing_or_half_is_hung_up_on(monkeypatch: pytest.MonkeyPatch, slow: LocalEngine):
    monkeypatch.setattr("adapters.server.connections.PATIENCE", 0.2)
    with serving(adapter_of(slow)) as server, server.connect() as silent, server.connect() as half:
        half.sendall(request_bytes(SHORT, length=1000))
        assert silent.recv(1000) == b""
        assert b" 408 " in half.recv(1000)


def test_what_is_being_answered_ends_when_the_server_stops(slow: LocalEngine):
    answered = {"messages": CAPITAL, "max_tokens": 200, "stream": True}
    with serving(adapter_of(slow)) as server:
        with server.connect() as connection:
            connection.sendall(request_bytes(answered))
            said = connection.recv(1000)
            server.server.should_exit = True
            while part := connection.recv(2**16):
                said += part
        server.thread.join(20)
    assert not server.thread.is_alive()
    assert b"data: [DONE]" in said
    [end] = [line for line in said.decode().splitlines() if '"finish_reason":"length"' in line]
    assert json.loads(end.removeprefix("data: "))["choices"][0]["index"] == 0


def test_the_answers_that_take_too_long_are_dropped_when_the_server_stops(
    slow: LocalEngine, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("adapters.server.connections.GRACE", 1)
    with serving(adapter_of(slow)) as server, server.connect() as connection:
        connection.sendall(request_bytes(ENDLESS | {"stream": True}))
        assert b" 200 " in connection.recv(1000)
        server.server.should_exit = True
        server.thread.join(20)
        assert not server.thread.is_alive()
