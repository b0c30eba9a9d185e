"""Where a run broke off the next one goes on, and the result is that of one run."""

import contextlib
import itertools
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from adapters.dataloop import PredictionError
from adapters.items.annotations import as_dict
from adapters.platform import remote, settling, storing, uploads
from engine.errors import GenerationError
from engine.types import Answer, Usage
from tests.adapters.conftest import ANSWERS, answers_on, asked, texts_on
from tests.gateway import store

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.usefixtures("no_pauses")


KILLED = """
import os, signal, sys
import dtlpy as dl
dl.setenv({url!r})
from adapters.dataloop import ModelAdapter
from adapters.hugging import HuggingAdapter
from adapters.platform import flow
from tests.adapters.conftest import asked
from tests.fakes import FakeEngine

flow.TOGETHER = 4

def reply(request):
    if len(engine.requests) == 20:
        os.kill(os.getpid(), signal.SIGKILL)
    return asked(request)

engine = FakeEngine(reply)
hugging = HuggingAdapter({{"model_name": "tiny"}})
hugging._engine = engine
adapter = ModelAdapter()
adapter.adapter, adapter._model_entity = hugging, dl.models.get(model_id={model!r})
adapter.predict_dataset(dl.datasets.get(dataset_id={dataset!r}))
"""


def test_a_run_goes_on_where_another_was_killed(
    answering, upload, questions, messages, dataset, gateway, tmp_path
):
    half = answering(asked, resume=True)
    items = [upload(f"{i}.json", [questions, messages][i % 2]) for i in range(12)]
    script = KILLED.format(url=gateway.url, model=half.model_entity.id, dataset=dataset.id)
    killed = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | gateway.environment(tmp_path / "killed"),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -9, killed.stderr
    before = {item.id: answers_on(item) for item in items}
    assert 0 < sum(map(bool, before.values())) < 12
    half.predict_dataset(dataset)
    there = sum(map(len, before.values()))
    assert len(half.adapter.engine.requests) == 6 * 3 + 6 * 2 - there
    for i, item in enumerate(items):
        now = answers_on(item)
        assert all(answer in now for answer in before[item.id])
        assert texts_on(item) == [ANSWERS, [("1", "Hello! (1)"), ("2", "And again! (3)")]][i % 2]


def test_what_is_answered_is_left_alone_where_a_call_says_so(adapter, changing, upload, questions, messages):
    items = [upload("questions.json", questions), upload("messages.json", messages)]
    changing.predict_items(items)
    old = [answers_on(item) for item in items]
    _, returned = adapter.predict_items(items, resume=True)
    assert returned == []
    assert adapter.adapter.engine.requests == []
    assert [answers_on(item) for item in items] == old


def test_only_what_was_added_is_answered_where_a_run_resumes(adapter, changing, upload, questions, messages):
    items = [upload("questions.json", questions), upload("messages.json", messages)]
    changing.predict_items(items)
    questions["prompts"]["third"] = {"1": {"mimetype": "application/text", "value": "New"}}
    messages["prompts"]["3"] = [{"mimetype": "application/text", "value": "New"}]
    items = [upload("questions.json", questions), upload("messages.json", messages)]
    adapter.predict_items(items, resume=True)
    old = [("first", "old"), ("first", "old"), ("second", "old")]
    assert texts_on(items[0]) == [*old, ("third", "New! (1)")]
    assert texts_on(items[1]) == [("1", "old"), ("2", "old"), ("3", "New! (5)")]


def test_a_resumed_run_removes_what_a_killed_one_had_left(adapter, changing, upload, questions, gateway):
    item = upload("questions.json", questions)
    changing.predict_items([item])
    gateway.fail("POST", "/query$", status=500, body='"delete": true', times=remote.TRIES)
    adapter.predict_items([item])
    assert len(answers_on(item)) == 6
    adapter.predict_items([item], resume=True)
    assert texts_on(item) == ANSWERS


@pytest.fixture
def killed(monkeypatch):
    """Runs that end in the middle of an upload, after so many of its requests."""

    def run(adapter, items, after):
        ask, uploads = remote.ask, itertools.count()

        def dying(method, path, *arguments, **named):
            if path.endswith("/annotations") and next(uploads) >= after:
                raise KeyboardInterrupt
            return ask(method, path, *arguments, **named)

        with monkeypatch.context() as patch:
            patch.setattr(remote, "ask", dying)
            patch.setattr(settling, "settle", lambda sent, name: [[] for _ in sent])
            with contextlib.suppress(PredictionError):
                adapter.predict_items(items)

    return run


def test_of_runs_that_were_killed_twice_each_answer_is_left_once(answering, upload, killed):
    prompts = {f"{i:03}": {"1": {"mimetype": "application/text", "value": "hi"}} for i in range(250)}
    item = upload("many.json", {"prompts": prompts})
    for _ in range(2):
        killed(answering(lambda request: "killed"), [item], after=1)
    assert len(answers_on(item)) == 200
    answering(lambda request: "resumed", resume=True).predict_items([item])
    assert texts_on(item) == [(key, "killed" if key < "100" else "resumed") for key in prompts]


@pytest.mark.parametrize("then", ["new", GenerationError("bad again")])
def test_a_prompt_that_was_answered_twice_has_one_answer_whatever_becomes_of_another(
    answering, upload, questions, killed, then
):
    def saying(text, other):
        def reply(request):
            if request.messages[-1].text != "Grüß Gott":
                return text
            if isinstance(other, Exception):
                raise other
            return other

        return reply

    item, bad = upload("questions.json", questions), GenerationError("bad")
    with pytest.raises(PredictionError, match="bad"):
        answering(saying("v1", bad)).predict_items([item])
    killed(answering(saying("v2", bad)), [item], after=9)
    assert texts_on(item) == [("first", "v1")] * 2 + [("first", "v2")] * 2
    with contextlib.suppress(PredictionError):
        answering(saying("v3", then), resume=True).predict_items([item])
    assert texts_on(item) == [("first", "v2")] * 2 + [("second", "new")] * (then == "new")


def test_a_prompt_whose_last_upload_broke_off_is_answered_again(
    answering, changing, upload, questions, killed, monkeypatch
):
    item = upload("questions.json", questions)
    changing.predict_items([item])
    monkeypatch.setattr(storing, "BATCH", 1)
    killed(answering(lambda request: "half"), [item], after=1)
    assert texts_on(item) == [("first", "half"), ("first", "old"), ("first", "old"), ("second", "old")]
    answering(lambda request: "new", resume=True).predict_items([item])
    assert texts_on(item) == [("first", "new"), ("first", "new"), ("second", "old")]


@pytest.mark.parametrize("seconds", [-2.0, 2.0, -(10.0**8)])
def test_the_last_run_stays_however_the_platforms_clock_steps(
    adapter, changing, upload, questions, monkeypatch, seconds
):
    item = upload("questions.json", questions)
    changing.predict_items([item])
    there = datetime.now(UTC) + timedelta(seconds=seconds)
    monkeypatch.setattr(store, "now", lambda: there.isoformat(timespec="milliseconds"))
    _, returned = adapter.predict_items([item])
    assert len(returned) == 3
    assert texts_on(item) == ANSWERS


def test_answers_of_before_there_were_orders_are_replaced(adapter, changing, upload, questions, gateway):
    item = upload("questions.json", questions)
    changing.predict_items([item])
    for one in gateway._services._store.tables["annotations"].values():
        del one["metadata"]["user"]["upload"]["order"]
    adapter.predict_items([item], resume=True)
    assert {text for _, text in texts_on(item)} == {"old"}
    adapter.predict_items([item])
    assert texts_on(item) == ANSWERS


@pytest.mark.parametrize("answered", [True, False])
def test_what_grew_in_a_run_that_was_killed_goes_with_the_next(answering, upload, messages, answered):
    item = upload("messages.json", messages)
    if answered:
        answering(lambda request: "old").predict_items([item])
    half = answering(asked)
    grown = half._record(as_dict("1", Answer("This is half", (), None, None, "length", Usage(0, 0)), "tiny"))
    remote.annotate(item.id, [uploads.as_partial(grown)])
    assert "This is half" not in str(half.prepare_item_func(item))
    half.predict_items([item], resume=True)
    assert texts_on(item) == (
        [("1", "old"), ("2", "old")] if answered else [("1", "Hello! (1)"), ("2", "And again! (3)")]
    )
