"""Answers that grow on the platform: few updates, many at once, and in the end what is stored without."""

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from adapters.dataloop import PredictionError
from adapters.platform import flow, partial, remote
from engine.errors import GenerationError
from tests.adapters.conftest import answers_on, asked, texts_on


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """No time passes."""
    monkeypatch.setattr(partial, "monotonic", lambda: 1.0)


class AtOnce(ThreadPoolExecutor):
    """Whoever hands a call over waits for it: each update is there before the answer grows on."""

    def submit(self, *args, **kwargs):
        future = super().submit(*args, **kwargs)
        future.result()
        return future


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The texts that each draft is changed to, one after the other."""
    texts: dict[str, list[str]] = defaultdict(list)
    ask = remote.ask

    def noting(method: str, path: str, body=None, **kwargs):
        if method == "PUT":
            texts[path].append(body["coordinates"])
        return ask(method, path, body, **kwargs)

    monkeypatch.setattr(remote, "ask", noting)
    return texts


def stripped(annotations: list[dict]) -> list[dict]:
    """Annotations without what each upload has of its own."""
    own = ("id", "createdAt", "updatedAt")
    return sorted(
        (
            {
                **{key: value for key, value in one.items() if key not in own},
                "metadata": {
                    **one["metadata"],
                    "user": {k: v for k, v in one["metadata"]["user"].items() if k != "upload"},
                },
            }
            for one in annotations
        ),
        key=str,
    )


def test_an_answer_grows_and_ends_as_without(answering, upload, questions, gateway, sent, monkeypatch):
    monkeypatch.setattr(partial, "ThreadPoolExecutor", AtOnce)
    item = upload("questions.json", questions)
    adapter = answering(asked, stream=True, stream_interval=0)
    adapter.predict_items([item])
    grown = answers_on(item)
    posted = [request for request in gateway.requests if request.path.endswith(f"{item.id}/annotations")]
    assert len(posted) == 3 + 1  # A draft each, and the whole answers.
    assert len(sent) == 3
    for texts in sent.values():
        assert all(later.startswith(text) for text, later in pairwise(texts))
    adapter.predict_items([item], stream=False)
    assert stripped(answers_on(item)) == stripped(grown)
    assert texts_on(item) == [
        ("first", "And again! (3)"),
        ("first", "Hello! (1)"),
        ("second", "Grüß Gott! (1)"),
    ]


def test_within_an_interval_an_answer_is_sent_once(answering, upload, questions, gateway, clock, sent):
    item = upload("questions.json", questions)
    answering(asked, stream=True).predict_items([item])
    posted = [request for request in gateway.requests if request.path.endswith(f"{item.id}/annotations")]
    assert (len(posted), sent) == (3 + 1, {})


def test_a_draft_is_no_answer_to_who_looks_meanwhile(answering, upload, questions):
    item = upload("questions.json", questions)
    seen = []

    def looking(request):
        seen.append([one["metadata"]["user"].get("upload") for one in answers_on(item)])
        return asked(request)

    answering(looking, stream=True, stream_interval=0).predict_items([item])
    assert all(mark["of"] == 2 for marks in seen for mark in marks)
    assert any(seen)


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_an_update_that_fails_costs_no_answer(answering, upload, questions, gateway, no_pauses, method):
    item = upload("questions.json", questions)
    path = rf"/items/{item.id}/annotations" if method == "POST" else "/annotations/.*"
    gateway.fail(method, path, status=400, times=1)
    answering(asked, stream=True, stream_interval=0).predict_items([item])
    assert len(answers_on(item)) == 3


def test_what_grew_and_failed_leaves_nothing_and_old_answers_stay(answering, upload, questions, monkeypatch):
    item = upload("questions.json", questions)
    answering(asked).predict_items([item])
    before = answers_on(item)
    adapter = answering(asked, stream=True, stream_interval=0)
    monkeypatch.setattr(
        type(adapter.adapter.engine),
        "_answer",
        lambda self, request: (_ for _ in ()).throw(GenerationError("it broke off")),
    )
    with pytest.raises((PredictionError, GenerationError)):
        adapter.predict_items([item])
    assert answers_on(item) == before


def test_a_run_that_breaks_off_takes_its_drafts_back(answering, upload, questions, monkeypatch):
    item = upload("questions.json", questions)
    adapter = answering(asked, stream=True, stream_interval=0)
    stream = type(adapter.adapter.engine).stream

    def breaking(self, *args, **kwargs):
        for number, chunk in enumerate(stream(self, *args, **kwargs)):
            if number == 5:
                raise RuntimeError("the process ends here")
            yield chunk

    monkeypatch.setattr(type(adapter.adapter.engine), "stream", breaking)
    with pytest.raises(RuntimeError, match="ends here"):
        adapter.predict_items([item])
    assert answers_on(item) == []


def test_where_a_writer_breaks_no_draft_stays(answering, upload, questions, monkeypatch):
    def store(seen, annotations):
        assert len(answers_on(item)) == 3
        raise RuntimeError("a bug of ours")

    item = upload("questions.json", questions)
    monkeypatch.setattr(flow.storing, "store", store)
    with pytest.raises(PredictionError, match="RuntimeError"):
        answering(asked, stream=True, stream_interval=0).predict_items([item])
    assert answers_on(item) == []


@pytest.mark.parametrize("status", [403, 404])
def test_a_partial_annotation_that_is_already_gone_counts_as_removed(
    answering, gateway, caplog, no_pauses, status
):
    answering(asked)
    gateway.fail("DELETE", "/annotations/", status=status)
    partial.discard(["1"])
    assert ("could not be removed" in caplog.text) == (status != 404)
