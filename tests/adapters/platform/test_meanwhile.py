"""What happens to an item, or to the login, while its answers are made."""

import json
import threading

import pytest

from adapters.dataloop import PredictionError
from adapters.platform import remote
from tests.adapters.conftest import ANSWERS, answers_on, asked, listed, texts_on

pytestmark = pytest.mark.usefixtures("no_pauses")


def test_an_item_that_is_deleted_while_it_is_answered_is_named(answering, upload, questions):
    good, gone = upload("good.json", questions), upload("gone.json", questions)

    def reply(request):
        if len(adapter.adapter.engine.requests) == 4:
            gone.delete()
        return asked(request)

    adapter = answering(reply)
    with pytest.raises(PredictionError, match="deleted while it was answered") as raised:
        adapter.predict_items([good, gone])
    assert listed(raised) == [gone.id]
    assert texts_on(good) == ANSWERS


def test_an_item_that_is_changed_while_it_is_answered_keeps_its_answers(
    answering, changing, upload, questions
):
    item, good = upload("questions.json", questions), upload("good.json", questions)
    changing.predict_items([item])
    old = answers_on(item)

    def reply(request):
        if not changed:
            changed.append(
                upload("questions.json", json.loads(json.dumps(questions).replace("Hello", "Adieu")))
            )
        return asked(request)

    changed: list = []
    with pytest.raises(PredictionError, match="it was changed while it was answered") as raised:
        answering(reply).predict_items([item, good])
    assert listed(raised) == [item.id]
    assert answers_on(item) == old
    assert texts_on(good) == ANSWERS


def test_an_item_that_is_only_touched_while_it_is_answered_has_its_answers(answering, upload, questions):
    item = upload("questions.json", questions)

    def reply(request):
        item.metadata["user"] = {"seen": len(adapter.adapter.engine.requests)}
        item.update()
        return asked(request)

    adapter = answering(reply)
    adapter.predict_items([item])
    assert texts_on(item) == ANSWERS


def test_two_runs_on_one_item_leave_one_answer_each(answering, upload, questions):
    item = upload("questions.json", questions)
    together = threading.Barrier(2)

    def reply(text):
        def say(request):
            if request.messages[-1].text == "Grüß Gott":
                together.wait()
            return text

        return say

    adapters = [answering(reply("a")), answering(reply("b"))]
    for _ in range(3):
        threads = [threading.Thread(target=adapter.predict_items, args=[[item]]) for adapter in adapters]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        left = texts_on(item)
        assert [key for key, _ in left] == ["first", "first", "second"]
        assert len({text for _, text in left}) == 1


def test_a_run_within_another_leaves_one_answer_each(answering, changing, upload, questions):
    item = upload("questions.json", questions)

    def reply(request):
        if request.messages[-1].text == "Grüß Gott":
            changing.predict_items([item])
        return asked(request)

    answering(reply).predict_items([item])
    assert texts_on(item) == ANSWERS


def test_a_token_that_ends_is_renewed_as_the_sdk_does(adapter, upload, questions, gateway, dl, monkeypatch):
    item = upload("questions.json", questions)
    client = dl.client_api
    client.token = gateway.token(expires_in=30)
    monkeypatch.setattr(remote._login, "_next", 0.0)
    renewed = []

    def renew():
        client.token = gateway.token()
        renewed.append(client.token)
        return True

    monkeypatch.setattr(client, "renew_token_method", renew)
    adapter.predict_items([item])
    assert len(renewed) == 1
    assert texts_on(item) == ANSWERS


def test_a_token_that_cannot_be_renewed_is_a_plain_error(
    answering, changing, upload, questions, gateway, dl, monkeypatch
):
    item = upload("questions.json", questions)
    changing.predict_items([item])
    old = answers_on(item)
    good = gateway.token()

    def reply(request):
        dl.client_api.token = gateway.token(expires_in=30)
        remote._login._next = 0.0
        return asked(request)

    with pytest.raises(
        PredictionError, match="the token has expired and cannot be renewed: log in again"
    ) as raised:
        answering(reply).predict_items([item])
    assert listed(raised) == [item.id]
    assert good not in str(raised.value)
    dl.client_api.token = good
    assert answers_on(item) == old
