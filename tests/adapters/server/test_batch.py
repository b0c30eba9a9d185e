"""The shared batch: what goes wrong in it is one answer's, or told to all who wait, and it goes on."""

import asyncio
from collections.abc import Iterable, Iterator

import pytest

from adapters.openai_api.errors import Refused
from adapters.server.batch import Batch
from adapters.server.metrics import Metrics
from engine.contract import Engine
from engine.errors import GenerationError, PromptError, Unsupported
from engine.types import Answer, Chunk, Request
from tests.adapters.server.prompts import CAPITAL
from tests.fakes import FakeEngine
from tests.helpers.servers.ours import adapter_of, serving
from tests.helpers.talk import ask


def loud(request: Request) -> str:
    text = request.messages[-1].text
    if text == "bad":
        raise PromptError("unreadable")
    if text == "worse":
        raise RuntimeError("a secret")
    return text.upper()


async def answers(batch: Batch, *requests: Request) -> list[Answer]:
    return [chunk.answer async for chunk in batch.submit(requests) if chunk.answer is not None]


def together(engine: Engine, *calls: list[Request], room: int = 9) -> list[list[Answer]]:
    """The answers of several calls that are made at a time, and then those of one more."""

    async def run() -> list[list[Answer]]:
        batch = Batch(engine, room, Metrics())
        batch.start()
        try:
            first = await asyncio.gather(*(answers(batch, *call) for call in calls))
            return [*first, await answers(batch, ask("last"))]
        finally:
            batch.stop()

    return asyncio.run(run())


def test_one_bad_request_costs_no_other_its_answer():
    [first], [bad], [last] = together(FakeEngine(loud), [ask("a")], [ask("bad")])
    assert (first.text, last.text) == ("A", "LAST")
    assert isinstance(bad.error, PromptError)


def test_an_engine_that_fails_fails_those_it_has_and_goes_on():
    [worse], [last] = together(FakeEngine(loud), [ask("worse")])
    assert isinstance(worse.error, GenerationError)
    assert "secret" not in str(worse.error)
    assert last.text == "LAST"


class Mute(Engine):
    """Refuses to write, before it takes any request."""

    def stream(self, requests: Iterable[Request | None], *_: object, **__: object) -> Iterator[Chunk]:
        raise Unsupported("it only embeds")
        yield


def test_a_model_that_writes_nothing_says_so_each_time():
    [first, second], [last] = together(Mute(), [ask("a"), ask("b")])
    assert {str(answer.error) for answer in (first, second, last)} == {"it only embeds"}


def test_a_call_that_has_no_room_is_refused_and_room_comes_back():
    async def run() -> None:
        batch = Batch(FakeEngine(loud), 2, Metrics())
        batch.start()
        waiting = batch.submit([ask("a"), ask("b")])
        with pytest.raises(Refused, match="2 answers are running"):
            batch.submit([ask("c")])
        with pytest.raises(Refused, match="2 answers are running"):
            await batch.run(lambda: 1)
        assert len([chunk async for chunk in waiting if chunk.answer]) == 2
        assert await batch.run(lambda: 1) == 1
        assert [answer.text for answer in await answers(batch, ask("c"), ask("d"))] == ["C", "D"]
        batch.stop()
        with pytest.raises(Refused, match="is stopping"):
            batch.submit([ask("e")])

    asyncio.run(run())


def test_a_failure_in_the_middle_of_a_stream_is_its_last_event(caplog: pytest.LogCaptureFixture):
    class Breaking(FakeEngine):
        def stream(self, requests, follow=None, deltas=True):
            for chunk in super().stream(requests, follow, deltas):
                if chunk.answer is not None:
                    raise RuntimeError("the prompt was about France")
                yield chunk

    body = {"messages": CAPITAL, "stream": True}
    with serving(adapter_of(Breaking(lambda _: "abc"))) as server:
        *_, error, done, _ = server.post("/v1/chat/completions", body).text.split("\n\n")
    assert error.startswith('data: {"error":{"message":"the model failed (RuntimeError)')
    assert done == "data: [DONE]"
    assert "France" not in caplog.text


def test_a_bug_is_status_500_with_a_request_id_and_no_word_of_the_prompt(caplog: pytest.LogCaptureFixture):
    adapter = adapter_of(FakeEngine(loud))
    adapter.chat_call = None
    with serving(adapter) as server:
        reply = server.post("/v1/chat/completions", {"messages": CAPITAL})
        assert (reply.status, reply.error["type"]) == (500, "server_error")
        assert reply.headers["x-request-id"]
        assert server.post("/v1/completions", {"prompt": "x"}).status == 500  # The fake reads messages alone.
        assert server.get("/health").status == 200
    assert "France" not in caplog.text
