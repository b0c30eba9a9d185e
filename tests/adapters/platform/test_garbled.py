"""What is answered with 200 and is no answer: a proxy's page, nothing, half of it, other JSON; and a 401."""

import math

import pytest
from urllib3 import Timeout

from adapters.dataloop import PredictionError
from adapters.platform import remote, texts
from adapters.prediction.failures import Failure
from tests.adapters.conftest import ANSWERS, answers_on, listed, texts_on

pytestmark = pytest.mark.usefixtures("no_pauses")

REQUESTS = {
    "count": {"path": "/query$", "body": '"pageSize": 0'},
    "list": {"path": "/query$", "body": '"hidden".*"pageSize": [1-9]'},
    "look before": {"path": "/query$", "body": '"itemId"'},
    "content": {"path": "/stream$"},
    "upload": {"path": "/annotations$"},
    "look after": {"path": "/query$", "body": '"items".*"[$]in"'},
    "remove": {"path": "/query$", "body": '"delete": true'},
}
BODIES = {
    "a page": lambda body: b"<html>503 Service Unavailable</html>",
    "nothing": lambda body: b"",
    "half": lambda body: body[: len(body) // 2],
    "null": lambda body: b"null",
    "another object": lambda body: b'{"ok": true}',
    "a list": lambda body: b"[3]",
    "no UTF-8": lambda body: b'{"\xff',
    "deep": lambda body: b"[" * 100_000,
    "no such page": lambda body: b'{"items": [{"name": "x"}], "hasNextPage": false, "totalItemsCount": "1"}',
    "a page without end": lambda body: b'{"items": [], "hasNextPage": true}',
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_a_request_with_a_garbled_answer_is_made_again(
    adapter, changing, upload, questions, dataset, gateway, request_, when
):
    items = [upload(f"{i}.json", questions) for i in range(2)]
    for garble in BODIES.values():
        changing.predict_items(items)
        fault = gateway.fail(**request_, when=when, status=200, garble=garble)
        if request_ is REQUESTS["remove"] and garble(b"{}").endswith(b"}"):
            fault.when = "after"  # What the platform says to a removal is not known: any object is good.
        adapter.predict_dataset(dataset)
        assert fault.seen > 0
        assert [texts_on(item) for item in items] == [ANSWERS] * 2


@pytest.mark.parametrize("name", ["look before", "content", "upload"])
def test_a_request_whose_answer_is_always_garbled_is_named(
    adapter, changing, upload, questions, gateway, name
):
    item = upload("questions.json", questions)
    changing.predict_items([item])
    old = texts_on(item)
    gateway.fail(**REQUESTS[name], status=200, garble=BODIES["a page"], times=math.inf)
    with pytest.raises(PredictionError) as raised:
        adapter.predict_items([item])
    gateway._faults.clear()
    assert listed(raised) == [item.id]
    assert "html" not in str(raised.value)
    assert texts_on(item) == old


def test_a_second_page_that_is_always_garbled_costs_no_answer_to_the_first(
    adapter, upload, questions, dataset, gateway, monkeypatch
):
    monkeypatch.setattr(remote, "PAGE", 2)
    items = [upload("0.json", questions), upload("1.json", b"{"), upload("2.json", questions)]
    gateway.fail("POST", "/query$", body='"[$]gt"', status=200, garble=BODIES["a page"], times=math.inf)
    with pytest.raises(PredictionError, match=r"could not be listed.*run again with resume: true") as raised:
        adapter.predict_dataset(dataset)
    gateway._faults.clear()
    assert items[1].id in listed(raised)
    assert [texts_on(item) for item in items] == [ANSWERS, [], []]


def test_a_list_that_begins_again_and_again_ends(adapter, upload, questions, dataset, monkeypatch):
    monkeypatch.setattr(remote, "PAGE", 2)
    items = [upload(f"{i}.json", questions) for i in range(3)]
    ask = remote.ask

    def deaf(method, path, body=None, **kwargs):
        if path.endswith("/query") and body["resource"] == "items":
            kept = [one for one in body["filter"]["$and"] if "$gt" not in str(one)]
            body = {**body, "filter": {"$and": kept}}
        return ask(method, path, body, **kwargs)

    monkeypatch.setattr(remote, "ask", deaf)
    with pytest.raises(PredictionError, match=r"the same page again and again.*resume: true"):
        adapter.predict_dataset(dataset)
    assert [texts_on(item) for item in items] == [ANSWERS, ANSWERS, []]


def test_answers_of_which_the_platform_keeps_some_are_taken_back(
    adapter, changing, upload, questions, monkeypatch
):
    item = upload("questions.json", questions)
    changing.predict_items([item])
    old = answers_on(item)
    ask = remote.ask

    def forgetful(method, path, body=None, **kwargs):
        return ask(method, path, body[:2] if path.endswith("/annotations") else body, **kwargs)

    monkeypatch.setattr(remote, "ask", forgetful)
    with pytest.raises(PredictionError, match="its answers could not be stored") as raised:
        adapter.predict_items([item])
    assert listed(raised) == [item.id]
    assert answers_on(item) == old


@pytest.mark.parametrize("name", REQUESTS)
def test_a_token_that_is_refused_once_is_renewed(
    adapter, changing, upload, questions, dataset, gateway, dl, monkeypatch, name
):
    item = upload("questions.json", questions)
    changing.predict_items([item])
    renewed = []
    monkeypatch.setattr(dl.client_api, "renew_token_method", lambda: renewed.append(True))
    gateway.fail(**REQUESTS[name], status=401)
    adapter.predict_dataset(dataset)
    assert renewed == [True]
    assert texts_on(item) == ANSWERS


def test_a_token_that_is_always_refused_is_a_plain_error(adapter, upload, questions, gateway):
    item = upload("questions.json", questions)
    fault = gateway.fail("GET", "/stream$", status=401, times=math.inf)
    with pytest.raises(PredictionError, match=r"401: .*: log in again") as raised:
        adapter.predict_items([item])
    assert listed(raised) == [item.id]
    assert fault.seen == 2


@pytest.mark.parametrize("name", ["look before", "content"])
def test_a_body_shorter_than_it_says_is_asked_for_again(
    adapter, upload, questions, gateway, monkeypatch, name
):
    monkeypatch.setattr(remote, "TIMEOUT", Timeout(connect=10, read=0.2))
    item = upload("questions.json", questions)
    longer = {"Content-Length": "100000"}
    gateway.fail(**REQUESTS[name], when="after", status=200, garble=lambda body: body, headers=longer)
    adapter.predict_items([item])
    assert texts_on(item) == ANSWERS


def test_a_page_of_answers_that_cannot_be_read_costs_the_other_items_no_settling(
    adapter, changing, upload, questions, gateway
):
    items = [upload(f"{i}.json", questions) for i in range(3)]
    changing.predict_items(items)
    unreadable = items[1].id
    gateway.fail(
        "POST", "/query$", body=f'"itemId".*{unreadable}', status=200, garble=BODIES["deep"], times=math.inf
    )
    with pytest.raises(PredictionError) as raised:
        adapter.predict_items(items)
    gateway._faults.clear()
    assert listed(raised) == [unreadable]
    assert [texts_on(items[0]), texts_on(items[2])] == [ANSWERS] * 2


@pytest.mark.parametrize("page", [b"<html>Sign in</html>", b'{"ok": true}', b""])
def test_a_proxys_page_is_embedded_as_no_text(gateway, upload, dataset, page):
    item = upload("text.txt", b"A cat sat on a mat.")
    gateway.fail("GET", "/stream$", status=200, garble=lambda body: page, times=math.inf)
    found = texts.download(dataset.items.get(item_id=item.id))
    assert isinstance(found, Failure)
    assert f"it should have 19 bytes, and has {len(page)}" in found.reason


def test_a_proxys_page_becomes_no_context(answering, gateway, upload):
    found = upload("facts.txt", b"Tea is green.")
    near = {"mimetype": "metadata", "value": {"nearestItems": [found.id]}}
    item = upload("question.json", {"prompts": {"1": ["What is tea?", near]}})
    adapter = answering(lambda request: "\n".join(message.text for message in request.messages))
    page = gateway.fail(
        "GET", f"{found.id}/stream$", status=200, garble=lambda body: b"<html>Sign in</html>", times=math.inf
    )
    adapter.predict_items([item])
    assert page.seen > 1
    assert texts_on(item) == [("1", "What is tea?")]


def test_a_text_that_was_changed_since_it_was_listed_is_read_as_it_is_now(dataset, upload):
    old = upload("text.txt", b"A cat.")
    upload("text.txt", b"A cat sat on a mat.")
    assert texts.download(old) == texts.Text(old.id, "A cat sat on a mat.", "document")
