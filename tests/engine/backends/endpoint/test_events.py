"""Event streams in every form that their standard has, over real HTTP."""

import json

import pytest

from engine.backends.endpoint import EndpointEngine
from engine.types import Answer, Request
from tests.helpers.endpoint_engines import Engines, engine, engines, environment, plain, server, waits
from tests.helpers.servers.misbehaving import Server, sending
from tests.helpers.talk import ask

__all__ = ["engine", "engines", "environment", "server", "waits"]


def chat(text: str, finish: str | None = None) -> str:
    return json.dumps({"choices": [{"delta": {"content": text}, "finish_reason": finish}]})


def completion(text: str, finish: str | None = None) -> str:
    return json.dumps({"choices": [{"text": text, "finish_reason": finish}]})


def tgi(text: str, finish: str | None = None) -> str:
    token = {"id": 1, "text": text, "logprob": -0.5, "special": False}
    details = finish and {"finish_reason": finish, "generated_tokens": 2}
    return json.dumps(
        {"token": token, "generated_text": "Gr\u00fc\u00df" if finish else None, "details": details}
    )


KINDS = {
    "chat": (chat, ask("hi"), "openai"),
    "completion": (completion, plain("hi"), "openai"),
    "tgi": (tgi, plain("hi"), "tgi"),
}
# Each makes of the pieces' JSON, and [DONE], the body of a stream.
FORMS = {
    "as usual": lambda data: "".join(f"data: {one}\n\n" for one in data),
    "without a blank": lambda data: "".join(f"data:{one}\n\n" for one in data),
    "CRLF": lambda data: "".join(f"data: {one}\r\n\r\n" for one in data),
    "CR": lambda data: "".join(f"data: {one}\r\r" for one in data),
    "a BOM": lambda data: "\ufeff" + "".join(f"data: {one}\n\n" for one in data),
    "comments": lambda data: ": hi\n\n" + "".join(f": still here\ndata: {one}\n:\n\n" for one in data),
    "other fields": lambda data: "".join(f"event: x\nid: 3\ndata: {one}\nretry: 5\n\n" for one in data),
    "empty events": lambda data: "".join(f"data\n\ndata:\n\nid: 1\n\ndata: {one}\n\n\n" for one in data),
    "several lines": lambda data: "".join(
        "".join(f"data: {line}\n" for line in one.replace(", ", ",\n").split("\n")) + "\n" for one in data
    ),
    "no blank lines": lambda data: "".join(f"data: {one}\n" for one in data),
    "no end of the last line": lambda data: "\n\n".join(f"data: {one}" for one in data),
    "no [DONE]": lambda data: "".join(f"data: {one}\n\n" for one in data[:-1]),
    "nor a blank line": lambda data: "\n\n".join(f"data: {one}" for one in data[:-1]),
    "something behind it": lambda data: "".join(f"data: {one}\n\n" for one in [*data, "what else"]),
}


def streamed(engine: EndpointEngine, request: Request) -> tuple[str, Answer]:
    *pieces, last = engine.stream([request])
    return "".join(piece.text for piece in pieces) + last.text, last.answer


@pytest.mark.parametrize("bytewise", [False, True])
@pytest.mark.parametrize(("piece", "request_", "api"), KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_stream_of_any_form_is_read(
    engines: Engines, server: Server, waits: list[float], form, piece, request_, api, bytewise
):
    body = form([piece("Gr"), piece("\u00fc\u00df", "length"), "[DONE]"]).encode()
    server.will(sending(*([bytes([one]) for one in body] if bytewise else [body])))
    text, answer = streamed(engines(api=api), request_)
    assert (text, answer.text, answer.finish_reason) == ("Gr\u00fc\u00df", "Gr\u00fc\u00df", "length")
    assert waits == []


@pytest.mark.parametrize("form", ["as usual", "CRLF", "CR", "no blank lines"])
def test_a_piece_is_there_before_the_next(engine: EndpointEngine, server: Server, form: str):
    async def slow(server_: Server, request, body):
        first, *rest = (FORMS[form]([one]).encode() for one in (chat("one"), chat(" two", "stop")))
        response = await sending(first)(server_, request, body)
        await server.going.wait()
        for part in rest:
            await response.write(part)
        return response

    server.will(slow)
    stream = engine.stream([ask("hi")])
    assert next(stream).text == "one"
    server.go()
    assert "".join(chunk.text for chunk in stream) == " two"


CUT = {
    "within an event": f"data: {chat('one')}\n\ndata: {chat(' two')[:-9]}",
    "between events": f"data: {chat('one')}\n\n",
    "without a reason to end": f"data: {chat('one')}\n\ndata: [DONE]\n\n",
}


@pytest.mark.parametrize("body", CUT.values(), ids=CUT)
def test_a_stream_that_is_cut_is_no_answer(engine: EndpointEngine, server: Server, body: str):
    server.will(sending(body.encode()))
    text, answer = streamed(engine, ask("hi"))
    assert text == "one"
    assert "ended its answer early" in str(answer.error)


def test_a_server_that_does_not_stream_is_read_all_the_same(engine: EndpointEngine, server: Server):
    body = json.dumps({"choices": [{"message": {"content": "whole"}, "finish_reason": "stop"}]}, indent=1)
    server.will(sending(body.encode()), sending(b'\n{"error": {"code": "no_stream"}}'))
    assert streamed(engine, ask("hi"))[0] == "whole"
    assert "reported an error (no_stream)" in str(streamed(engine, ask("hi"))[1].error)
