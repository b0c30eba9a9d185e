"""Whatever fails, each item has its answers once or is named, and nothing else on the platform is touched."""

import math

import pytest
import torch

from adapters.dataloop import ModelAdapter, PredictionError
from adapters.items.annotations import as_dict, as_record, collection
from adapters.platform import remote, settling, storing
from engine.errors import GenerationError
from engine.types import Answer, Usage
from tests.adapters.conftest import ANSWERS, answers_on, asked, listed, texts_on
from tests.helpers.sequences import breaking

pytestmark = pytest.mark.usefixtures("no_pauses")


BROKEN = {
    "broken": b'{"prompts": ',
    "empty": b"",
    "no prompts": b'{"shebang": "dataloop", "metadata": {"dltype": "prompt"}}',
    "prompts of a wrong type": b'{"prompts": 3}',
    "a prompt of a wrong type": b'{"prompts": {"1": 3}}',
    "an element of a wrong type": b'{"prompts": {"1": [{"mimetype": "application/text", "value": {}}]}}',
    "no JSON": b"\x89PNG\xff",
    "deep": b"[" * 100_000,
    "large": b'{"prompts": {"1": [{"mimetype": "application/text", "value": "' + b"x" * 50_000_000 + b'"}]}}',
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_an_item_that_cannot_be_read_keeps_what_it_had(adapter, changing, upload, questions, content):
    bad = upload("bad.json", questions)
    changing.predict_items([bad])
    old = answers_on(bad)
    assert len(old) == 3
    bad, good = upload("bad.json", content), upload("good.json", questions)
    with pytest.raises(PredictionError) as raised:
        adapter.predict_items([bad, good])
    (failure,) = raised.value.failures
    assert failure.item == bad.id
    assert f"{bad.id}: " in str(raised.value)
    assert answers_on(bad) == old
    assert texts_on(good) == ANSWERS


def test_an_item_of_another_kind_is_named(adapter, upload, questions):
    bad, good = upload("picture.png", b"\x89PNG\r\n\x1a\n"), upload("good.json", questions)
    with pytest.raises(PredictionError, match="it could not be read") as raised:
        adapter.predict_items([bad, good])
    assert listed(raised) == [bad.id]
    assert texts_on(good) == ANSWERS


def test_a_download_that_fails_once_is_tried_again(adapter, upload, questions, gateway):
    item = upload("questions.json", questions)
    gateway.fail("GET", f"/items/{item.id}/stream", status=500)
    adapter.predict_items([item])
    assert texts_on(item) == ANSWERS


def test_a_download_that_always_fails_is_named(adapter, upload, questions, gateway):
    item, good = upload("questions.json", questions), upload("good.json", questions)
    gateway.fail("GET", f"/items/{item.id}/stream", status=500, times=math.inf)
    with pytest.raises(PredictionError, match=r"could not be downloaded .500: server error") as raised:
        adapter.predict_items([item, good])
    assert listed(raised) == [item.id]
    assert len(gateway.sent("GET", f"/items/{item.id}/stream")) == remote.TRIES
    assert texts_on(good) == ANSWERS


def test_a_download_that_fails_is_named_where_predict_is_called(adapter, upload, questions, gateway):
    item = upload("questions.json", questions)
    gateway.fail("GET", f"/items/{item.id}/stream", status=500, times=math.inf)
    failures = []
    assert len(adapter.predict([adapter.prepare_item_func(item)], failures)[0]) == 0
    assert "500: server error" in failures[0].reason


RETRIED = {
    "500": {"status": 500},
    "503 twice": {"status": 503, "times": 2},
    "a dropped connection": {"drop": True},
    "429": {"status": 429},
}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("fault", RETRIED.values(), ids=RETRIED)
def test_an_upload_that_fails_for_a_while_lands_once(
    adapter, changing, upload, questions, gateway, fault, when
):
    item = upload("questions.json", questions)
    changing.predict_items([item])
    gateway.fail("POST", f"/items/{item.id}/annotations$", when=when, **fault)
    _, returned = adapter.predict_items([item])
    assert texts_on(item) == ANSWERS
    assert sorted(annotation.id for annotation in returned) == sorted(a["id"] for a in answers_on(item))


@pytest.mark.parametrize(("status", "tries"), [(400, 1), (503, remote.TRIES)])
def test_an_upload_that_fails_for_good_leaves_the_old_answers(
    adapter, changing, upload, questions, gateway, status, tries
):
    item, good = upload("questions.json", questions), upload("good.json", questions)
    changing.predict_items([item])
    old = answers_on(item)
    fault = gateway.fail("POST", f"/items/{item.id}/annotations$", status=status, times=math.inf)
    with pytest.raises(PredictionError, match=f"could not be stored: {status}: ") as raised:
        adapter.predict_items([item, good])
    assert listed(raised) == [item.id]
    assert fault.seen == tries
    assert answers_on(item) == old
    assert texts_on(good) == ANSWERS


def test_an_upload_that_is_stored_and_always_refused_lands_once(
    adapter, changing, upload, questions, gateway
):
    item = upload("questions.json", questions)
    changing.predict_items([item])
    gateway.fail("POST", f"/items/{item.id}/annotations$", status=503, when="after", times=math.inf)
    adapter.predict_items([item])
    assert texts_on(item) == ANSWERS


def test_old_answers_that_cannot_be_removed_go_with_the_next_run(
    adapter, changing, upload, questions, gateway
):
    item = upload("questions.json", questions)
    changing.predict_items([item])
    gateway.fail("POST", "/query$", status=500, body='"delete": true', times=remote.TRIES)
    adapter.predict_items([item])
    assert texts_on(item) == sorted([*ANSWERS, ("first", "old"), ("first", "old"), ("second", "old")])
    adapter.predict_items([item])
    assert texts_on(item) == ANSWERS


def test_old_answers_whose_removal_is_refused_for_many_are_removed_for_fewer(
    adapter, changing, upload, questions, gateway
):
    items = [upload(f"{i}.json", questions) for i in range(3)]
    changing.predict_items(items)
    gateway.fail("POST", "/query$", status=400, body='"delete": true')
    adapter.predict_items(items)
    assert [texts_on(item) for item in items] == 3 * [ANSWERS]


@pytest.mark.parametrize(
    ("status", "requests"),
    [(413, 3), (403, 1), (404, 1)],  # 3: one for all, then one for each half.
)
def test_a_rejected_removal_is_divided_only_where_fewer_items_may_be_accepted(
    adapter, changing, upload, questions, gateway, status, requests
):
    items = [upload(f"{i}.json", questions) for i in range(2)]
    changing.predict_items(items)
    gateway.fail("POST", "/query$", status=status, body='"delete": true')
    adapter.predict_items(items)
    sent = [request for request in gateway.sent("POST", "/query$") if request.json.get("delete")]
    assert len(sent) == requests
    assert all(texts_on(item) == ANSWERS for item in items) == (status == 413)


@pytest.mark.parametrize("status", [403, 404])
def test_a_rejected_check_is_not_repeated_for_each_item(adapter, upload, questions, gateway, status):
    items = [upload(f"{i}.json", questions) for i in range(4)]
    gateway.fail("POST", "/query$", nth=2, status=status, times=math.inf)
    adapter.predict_items(items)
    assert len([request for request in gateway.sent("POST", "/query$") if request.status == status]) == 2
    gateway._faults.clear()
    assert [texts_on(item) for item in items] == 4 * [ANSWERS]


def test_a_platform_that_is_away_is_not_asked_again_for_each_item(adapter, upload, questions, gateway):
    items = [upload(f"{i}.json", questions) for i in range(3)]
    gateway.fail("POST", "/query$", nth=2, status=500, times=math.inf)
    adapter.predict_items(items)
    looks = 2  # At the items, and at their answers.
    failed = [request for request in gateway.sent("POST", "/query$") if request.status == 500]
    assert len(failed) == looks * remote.TRIES
    gateway._faults.clear()
    assert [texts_on(item) for item in items] == 3 * [ANSWERS]


def test_a_run_that_cannot_look_afterwards_has_stored_its_answers(
    adapter, upload, questions, gateway, caplog
):
    item = upload("questions.json", questions)
    gateway.fail("POST", "/query$", nth=2, status=500, times=math.inf)
    adapter.predict_items([item])
    assert "replaced answers were not removed" in caplog.text
    gateway._faults.clear()
    assert texts_on(item) == ANSWERS


@pytest.fixture
def many_questions() -> dict:
    """250 questions of one conversation."""
    asked = {str(i): {"mimetype": "application/text", "value": f"{i}"} for i in range(250)}
    return {"shebang": "dataloop", "metadata": {"dltype": "prompt"}, "prompts": {"all": asked}}


def test_250_answers_are_250(adapter, upload, many_questions):
    item = upload("many.json", many_questions)
    for _ in range(2):
        _, returned = adapter.predict_items([item])
        assert len(returned) == len(answers_on(item)) == 250


def test_a_part_of_250_answers_is_taken_back(adapter, changing, upload, many_questions, gateway):
    item = upload("many.json", many_questions)
    changing.predict_items([item])
    gateway.fail("POST", f"/items/{item.id}/annotations$", nth=3, status=400)
    with pytest.raises(PredictionError, match="could not be stored"):
        adapter.predict_items([item])
    assert texts_on(item) == [("all", "old")] * 250


def test_an_item_that_was_deleted_before_is_named(adapter, upload, questions):
    gone, good = upload("gone.json", questions), upload("good.json", questions)
    gone.delete()
    with pytest.raises(PredictionError, match="404: not found") as raised:
        adapter.predict_items([gone, good])
    assert listed(raised) == [gone.id]
    assert texts_on(good) == ANSWERS


def test_a_conversation_on_which_the_model_fails_costs_no_other(answering, changing, upload, questions):
    item = upload("questions.json", questions)
    changing.predict_items([item])

    def reply(request):
        if request.messages[-1].text == "And again":
            raise GenerationError("the context is too long")
        return asked(request)

    with pytest.raises(PredictionError, match="the context is too long") as raised:
        answering(reply).predict_items([item])
    (failure,) = raised.value.failures
    assert (failure.item, failure.key) == (item.id, "first")
    assert texts_on(item) == [("first", "old"), ("first", "old"), ("second", "Grüß Gott! (1)")]


def test_out_of_memory_makes_smaller_batches_and_all_are_answered(
    model_entity, tiny_model, upload, questions, caplog
):
    configuration = {"module_name": "auto_causal_lm", "model_name": str(tiny_model), "max_new_tokens": 8}
    adapter = ModelAdapter(model_entity=model_entity(configuration))
    questions["prompts"] = {
        f"number {i}": {"1": {"mimetype": "application/text", "value": f"Question {i}"}} for i in range(6)
    }
    item = upload("questions.json", questions)
    adapter.predict_items([item])
    expected = texts_on(item)
    model, error = adapter.adapter.engine.loaded.model, torch.OutOfMemoryError("CUDA out of memory")
    with breaking(model, lambda inputs: len(inputs["attention_metadata"].chunks) > 2, error):
        adapter.predict_items([item])
    assert "a step of 6 sequences failed (OutOfMemoryError" in caplog.text
    assert texts_on(item) == expected


def test_what_others_put_on_an_item_is_untouched(answering, upload, questions, dl):
    item = upload("questions.json", questions)
    other, tiny = answering(asked, name="other"), answering(asked)
    other.predict_items([item])
    by_hand = dl.AnnotationCollection()
    by_hand.add(dl.FreeText(text="a person's", label="q"), prompt_id="first")
    by_hand.add(
        dl.Classification(label="good"), model_info={"name": "tiny", "model_id": "1", "confidence": 0.5}
    )
    item.annotations.upload(annotations=by_hand)
    before = answers_on(item)
    for _ in range(2):
        tiny.predict_items([item])
    assert [a for a in answers_on(item) if a in before] == before
    assert len(answers_on(item)) == len(before) + 3


def test_no_answers_remove_nothing(answering, changing, upload, questions):
    item = upload("questions.json", questions)
    changing.predict_items([item])
    old = answers_on(item)

    def reply(request):
        raise GenerationError("not today")

    with pytest.raises(PredictionError, match="not today"):
        answering(reply).predict_items([item])
    assert answers_on(item) == old


def test_a_page_of_a_dataset_that_cannot_be_listed_is_named(
    adapter, upload, questions, dataset, gateway, monkeypatch
):
    monkeypatch.setattr(remote, "PAGE", 2)
    items = [upload(f"{i}.json", questions) for i in range(3)]
    gateway.fail("POST", "/query$", status=500, body='"[$]gt"', times=math.inf)
    with pytest.raises(PredictionError, match=r"could not be listed .500: .*run again with resume: true"):
        adapter.predict_dataset(dataset)
    gateway._faults.clear()
    assert [texts_on(item) for item in items] == [ANSWERS, ANSWERS, []]


def test_no_text_is_logged_and_no_token_shown_whatever_fails(adapter, upload, questions, gateway, caplog, dl):
    item = upload("questions.json", questions)
    gateway.fail("POST", f"/items/{item.id}/annotations$", drop=True, times=math.inf)
    with caplog.at_level("INFO"), pytest.raises(PredictionError) as raised:
        adapter.predict_items([item])
    for text in ("Hello", "And again", "Grüß", dl.client_api.token):
        assert text not in caplog.text
        assert text not in str(raised.value)


@pytest.mark.parametrize("confidence", [0.5, None])
def test_what_is_stored_is_what_the_sdk_would_store(answering, upload, questions, confidence):
    adapter, item = answering(asked), upload("questions.json", questions)
    answer = as_dict("first", Answer("text", (), None, confidence, "stop", Usage(0, 0)), "tiny")
    (entity,) = collection([answer], adapter.model_entity)
    item.annotations.upload(annotations=[entity])
    (by_the_sdk,) = answers_on(item)
    stored = storing.store(
        settling.list_items(item.dataset_id, [item.id])[item.id], [as_record(answer, adapter.model_entity)]
    )
    (ours,) = [a for a in answers_on(item) if a["id"] == stored.annotations[0]["id"]]
    del ours["metadata"]["user"]["upload"]
    assert {**ours, "id": "", "createdAt": "", "updatedAt": ""} == {
        **by_the_sdk,
        "id": "",
        "createdAt": "",
        "updatedAt": "",
    }
