"""Where a run broke off the next one goes on, and the result is that of one run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from adapters.platform import remote
from tests.adapters.conftest import ANSWERS, answers_on, asked, texts_on

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
    if len(engine.batches) == 20:
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
    assert len(half.adapter.engine.batches) == 6 * 3 + 6 * 2 - there
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
    assert adapter.adapter.engine.batches == []
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
