"""The endpoint engine where the server goes wrong: what is asked again, and what is said of the rest."""

import json
import logging
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from engine.backends.endpoint import EndpointEngine, wire
from engine.errors import GenerationError
from tests.helpers.endpoint_engines import (
    SECRET,
    Engines,
    engine,
    engines,
    environment,
    failure,
    plain,
    server,
    waits,
)
from tests.helpers.servers.misbehaving import (
    Server,
    answering,
    dropping,
    endless,
    held,
    inflating,
    quoting,
    refusing,
    sending,
    streaming,
)
from tests.helpers.talk import ask

__all__ = ["engine", "engines", "environment", "server", "waits"]


@pytest.mark.parametrize("fault", [refusing(500), refusing(503), refusing(429), dropping])
def test_what_is_put_off_or_dropped_is_asked_again(
    engine: EndpointEngine, server: Server, waits: list[float], fault
):
    server.will(fault, fault)
    assert engine.generate([ask("hi")])[0].text == "HI"
    assert len(server.asked) == 3
    assert 0.5 <= waits[0] <= 1 <= waits[1] <= 2


def test_it_is_asked_so_often_and_no_more(engines: Engines, server: Server, waits: list[float]):
    server.will(*[refusing(503, {"error": {"message": "wait", "code": "loading"}})] * 4)
    text = failure(engines(retries=2), ask("hi"))
    refused = f"{server.url} rejected the request (status 503, loading): see its log"
    assert text == f"{refused} (asked 3 times)"
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        ("7", 7),
        ("0.5", 0.5),
        (timedelta(days=-1), 0),
        (timedelta(seconds=15), 15),
        ("Mon, 02 Jan 2023 00:00:00 -0000", 0),
        ("soon", 0),
    ],
)
def test_a_server_says_when_it_wants_to_be_asked_again(
    engines: Engines, server: Server, waits: list[float], retry_after: str | timedelta, seconds: float
):
    if isinstance(retry_after, timedelta):
        retry_after = format_datetime(datetime.now(UTC) + retry_after)
    server.will(refusing(429, Retry_After=retry_after))
    assert engines(timeout=60).generate([ask("hi")])[0].text == "HI"
    passed = 15 if seconds == 15 else 0  # A date comes nearer while the test runs.
    assert max(seconds - passed, 0.5) <= waits[0] <= seconds + 1


def test_a_server_that_wants_to_be_left_alone_for_long_is(
    engines: Engines, server: Server, waits: list[float]
):
    server.will(refusing(429, Retry_After="3600"))
    assert "lower max_concurrent" in failure(engines(timeout=60), ask("hi"))
    assert waits == []
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        (400, "leave out options that it may not know"),
        (401, "set a token with access as HUGGINGFACE_TOKEN"),
        (403, "set another"),
        (404, "check base_url, and that model_name"),
        (413, "shorten the conversation"),
        (422, "leave out options that it may not know"),
    ],
)
def test_what_is_refused_is_not_asked_again(
    engine: EndpointEngine, server: Server, waits: list[float], status: int, hint: str
):
    server.will(refusing(status, {"message": "because", "code": status}))
    text = failure(engine, ask("hi"))
    assert text.startswith(f"{server.url} rejected the request (status {status}): ")
    assert hint in text
    assert (len(server.asked), waits) == (1, [])
    assert engine.generate([ask("hi")])[0].text == "HI"


@pytest.mark.parametrize(
    "body",
    [b"{not json", b"", b"[]", b"null", b"[" * 10**5, b'{"choices": [{}]', b"\xff\xfe"]
    + [
        json.dumps(body).encode()
        for body in (
            {"choices": None},
            {"choices": []},
            {"choices": [{"message": {}}]},
            {"error": "no"},
            {"choices": [{"message": "text"}]},
            {"choices": [{"message": {"content": 3}}]},
            {"choices": [{"message": {"content": "x"}, "logprobs": {"content": [1]}}]},
            {"choices": [{"message": {"content": "x"}, "finish_reason": "content_filter"}]},
        )
    ],
)
def test_what_is_no_answer_is_one_failure(
    engine: EndpointEngine, server: Server, waits: list[float], body: bytes
):
    server.will(answering(body))
    [bad] = engine.generate([ask("hi")])
    assert isinstance(bad.error, GenerationError)
    assert server.url in str(bad.error)
    assert (len(server.asked), waits) == (1, [])


def test_one_failure_costs_no_other_its_answer(engine: EndpointEngine, server: Server):
    server.will(answering(b"{"), refusing(400))
    answers = engine.generate([ask(f"hi {i}") for i in range(6)])
    assert [answer.text for answer in answers if answer.error is None] == [
        f"HI {i}" for i, answer in enumerate(answers) if answer.error is None
    ]
    assert sum(answer.error is not None for answer in answers) == 2


def test_a_slow_server_is_given_up(engines: Engines, server: Server, waits: list[float]):
    server.will(held)
    assert "within 0.2 seconds: raise timeout" in failure(engines(timeout=0.2), ask("hi"))
    assert server.left.wait(20)
    assert (len(server.asked), waits) == (1, [])


def test_a_slow_stream_is_given_up(engines: Engines, server: Server):
    server.will(held)
    *pieces, last = engines(timeout=0.5).stream([ask("one two")])
    assert [piece.text for piece in pieces] == ["ONE"]
    assert "within 0.5 seconds" in str(last.answer.error)


@pytest.mark.parametrize("fault", [endless, inflating])
def test_an_endless_body_is_not_read_to_its_end(
    engine: EndpointEngine, server: Server, monkeypatch: pytest.MonkeyPatch, fault
):
    monkeypatch.setattr(wire, "LIMIT", 2**20)
    server.will(fault)
    assert "more than 1 MiB" in failure(engine, ask("hi"))


def chunk(text: str, finish: str | None = None) -> dict:
    return {"choices": [{"delta": {"content": text}, "finish_reason": finish}]}


@pytest.mark.parametrize("how", [True, False], ids=["dropped", "ended"])
def test_a_stream_that_is_cut_fails_with_what_it_gave(
    engine: EndpointEngine, server: Server, waits: list[float], how: bool
):
    server.will(streaming(chunk("one"), chunk(" two"), cut=how))
    *pieces, last = engine.stream([ask("hi")])
    assert "".join(piece.text for piece in pieces) == "one two"
    assert last.text == ""
    assert isinstance(last.answer.error, GenerationError)
    assert len(server.asked) == 1  # Asked again it would say the beginning twice.


def test_a_stream_that_is_cut_before_its_first_word_is_asked_again(
    engine: EndpointEngine, server: Server, waits: list[float]
):
    server.will(streaming(chunk(""), cut=True), dropping, refusing(500))
    *_, last = engine.stream([ask("hi")])
    assert last.answer.text == "HI"
    assert len(server.asked) == 4


ERRORS = {
    "a text": ({"error": "a private matter"}, ""),
    "OpenAI": ({"error": {"message": "a private matter", "type": "server_error"}}, " (server_error)"),
    "vLLM": ({"object": "error", "message": "a private matter", "code": 500}, " (code 500)"),
    "TGI": ({"error": "a private matter", "error_type": "overloaded"}, " (overloaded)"),
    "beside choices": ({"choices": [], "error": {"message": "a private matter", "code": 502}}, " (code 502)"),
}


@pytest.mark.parametrize(("error", "named"), ERRORS.values(), ids=ERRORS)
def test_an_error_within_an_answer_is_told(engine: EndpointEngine, server: Server, error: dict, named: str):
    server.will(streaming(chunk("one"), error), streaming({"choices": [{"text": "one"}]}, error))
    server.will(answering(error), answering(error))
    streams = [list(engine.stream([request])) for request in (ask("hi"), plain("hi"), ask("hi"))]
    for answer in (*(stream[-1].answer for stream in streams), *engine.generate([ask("hi")])):
        assert str(answer.error) == f"{server.url} reported an error{named}: see its log"


def test_wrong_json_within_a_stream_is_one_failure(engine: EndpointEngine, server: Server):
    server.will(answering(b"data: {not json\n\n"), answering(b"data: {not json\n\n"))
    for request in (ask("hi"), plain("hi")):
        [last] = engine.stream([request])
        assert "sent an invalid response" in str(last.answer.error)


def test_a_server_that_is_not_there(engines: Engines, waits: list[float]):
    with Server() as gone:
        url = gone.url
    text = failure(engines(base_url=url, retries=1), ask("hi"))
    assert text.startswith(f"{url} cannot be reached")
    assert "(asked 2 times)" in text


def test_what_a_server_quotes_is_told_nobody(
    engine: EndpointEngine, server: Server, waits: list[float], caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    for status in (400, 401, 404, 422, 500, 503):
        server.routes["/v1/chat/completions"] = quoting(status, code="no_such_thing", type=SECRET)
        text = failure(engine, ask("a private matter"))
        assert f"(status {status}, no_such_thing)" in text
        assert "private" not in text
    above = [record.getMessage() for record in caplog.records if record.levelno > logging.DEBUG]
    assert any("HTTP Request" in line for line in above)
    assert not any("private" in line for line in above)
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("engine")]
    assert any("a private matter" in line and "Bearer <secret>" in line for line in ours)
    assert not any(SECRET in line for line in above + ours)


def test_an_answer_that_cannot_be_read_is_not_quoted(engine: EndpointEngine, server: Server):
    noted = {"content": [{"token": "x", "logprob": "a private matter"}]}
    choice = {"message": {"content": "x"}, "logprobs": noted, "finish_reason": "stop"}
    server.will(answering({"choices": [choice]}), sending(b"data: a private matter\n\n"))
    for text in (failure(engine, ask("hi")), str(list(engine.stream([ask("hi")]))[-1].answer.error)):
        assert "private" not in text
        assert server.url in text


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("This model's maximum context length is 8 tokens", "shorten it, or lower max_new_tokens"),
        (
            "`inputs` tokens + `max_new_tokens` must be <= 8. Given: 9 `inputs` tokens",
            "or lower max_new_tokens",
        ),
        ("Unrecognized request argument supplied: top_k", "leave out or change top_k"),
        (
            'no: {"messages": [], "top_k": 3, "top_p": 1}',
            "may not know; the full response is logged at DEBUG",
        ),
    ],
)
def test_what_it_names_of_ours_is_said_in_our_words(
    engine: EndpointEngine, server: Server, said: str, hint: str
):
    server.will(refusing(400, said))
    assert failure(engine, ask("hi")).endswith(hint)


def test_no_error_tells_the_token(engine: EndpointEngine, server: Server):
    server.will(refusing(401, {"error": f"{SECRET} is no token, Bearer {SECRET} neither"}))
    assert SECRET not in failure(engine, ask("hi"))
    assert server.asked[-1].headers["Authorization"] == f"Bearer {SECRET}"
    assert SECRET not in repr(vars(engine)) + repr(vars(engine._server))
