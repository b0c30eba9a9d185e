"""A platform that quotes what it was sent: no answer, question or token gets into a reason or a log."""

import json
import logging
import re
from types import SimpleNamespace

import pytest
from aiohttp import web

from adapters.dataloop import PredictionError
from adapters.platform import partial, remote, texts
from adapters.platform.progress import RunProgress
from engine.errors import GenerationError
from tests.adapters.conftest import answers_on, listed
from tests.adapters.platform.test_streaming import AtOnce

pytestmark = pytest.mark.usefixtures("no_pauses")
PRIVATE = "a private matter"


@pytest.fixture
def quoting(gateway, monkeypatch: pytest.MonkeyPatch):
    """Makes the platform refuse some requests with all that it was sent, as JSON or as text."""

    def make(method: str, path: str, status: int = 400, form: str = "json") -> None:
        answer = gateway._answer

        async def quote(request, handler, log):
            if request.method != method or not re.search(path, log.path):
                return await answer(request, handler, log)
            sent = f"{json.dumps(log.json)} {dict(request.headers)} {log.path}"
            if form == "json":
                return web.json_response(
                    {"message": sent, "error": PRIVATE, "code": "no_good"}, status=status
                )
            return web.Response(text=sent, status=status, reason=sent)

        monkeypatch.setattr(gateway, "_answer", quote)

    return make


def nothing_told(dl, caplog: pytest.LogCaptureFixture, *texts: str) -> None:
    """No private text in these or in the log above DEBUG, and no token in our log at all."""
    records = [record for record in caplog.records if record.levelno > logging.DEBUG]
    ours = [record for record in caplog.records if record.name.partition(".")[0] in ("engine", "adapters")]
    for text in (*texts, *(record.getMessage() for record in records)):
        assert PRIVATE not in text
        assert PRIVATE[:9] not in text
    for text in (*texts, *(record.getMessage() for record in ours)):
        assert dl.client_api.token not in text


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/annotations$", 400),
        ("POST", "/annotations$", 401),
        ("POST", "/annotations$", 503),
        ("GET", "/stream$", 404),
        ("POST", "/query$", 500),
    ],
)
def test_what_the_platform_quotes_is_told_nobody(
    answering, upload, questions, quoting, dl, caplog, method, path, status, form
):
    caplog.set_level(logging.DEBUG)
    item = upload("a private matter.json", questions)
    adapter = answering(lambda request: PRIVATE)
    quoting(method, path, status, form)
    with pytest.raises(PredictionError) as raised:
        adapter.predict_items([item])
    assert listed(raised) == [item.id]
    reason = raised.value.failures[0].reason
    assert str(status) in reason
    assert ("no_good" in reason) == (form == "json")
    nothing_told(dl, caplog, reason, str(raised.value))


@pytest.mark.parametrize(("method", "path"), [("POST", "/annotations$"), ("PUT", "/annotations/")])
def test_what_it_quotes_of_an_answer_that_grows_is_told_nobody(
    answering, upload, questions, quoting, dl, caplog, monkeypatch, method, path
):
    monkeypatch.setattr(partial, "ThreadPoolExecutor", AtOnce)
    caplog.set_level(logging.DEBUG)
    item = upload("questions.json", questions)
    adapter = answering(lambda request: PRIVATE, stream=True, stream_interval=0)
    quoting(method, path)
    if method == "POST":
        with pytest.raises(PredictionError) as raised:
            adapter.predict_items([item])
        nothing_told(dl, caplog, str(raised.value))
    else:
        adapter.predict_items([item])
        assert [one["coordinates"] for one in answers_on(item)] == [PRIVATE] * 3
        nothing_told(dl, caplog)
    assert "a partial annotation could not be updated: 400" in caplog.text
    debug = [record.getMessage() for record in caplog.records if record.name == "engine.redaction"]
    assert any(PRIVATE[:9] in line for line in debug)
    assert any("Bearer <secret>" in line for line in debug)


def test_what_the_sdk_quotes_is_told_nobody(dl, caplog):
    caplog.set_level(logging.DEBUG)
    error = dl.exceptions.BadRequest("400", f"{PRIVATE} {dl.client_api.token}")
    assert remote.describe_error(error) == "BadRequest, status 400"
    assert remote.describe_error(GenerationError("our words")) == "our words"
    assert any(PRIVATE in record.getMessage() for record in caplog.records)
    nothing_told(dl, caplog)


def test_what_it_quotes_of_a_report_or_a_vector_is_told_nobody(dl, upload, monkeypatch, caplog):
    error = dl.exceptions.BadRequest("400", f"{PRIVATE} {dl.client_api.token}")

    def refuse(*_, **__):
        raise error

    with RunProgress(1, SimpleNamespace(update=refuse)):
        pass
    assert "the progress could not be reported: BadRequest, status 400" in caplog.text
    monkeypatch.setattr(remote, "text_content", refuse)
    failure = texts.download(upload("text.txt", b"A cat."))
    nothing_told(dl, caplog, failure.reason)
