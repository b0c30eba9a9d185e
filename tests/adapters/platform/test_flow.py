"""Many items: read, answered and stored at the same time, with few requests and few items on their way."""

import json
import math
import threading
from collections import Counter
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from adapters import dataloop
from adapters.dataloop import ModelAdapter, PredictionError
from adapters.items.item import Snapshot
from adapters.platform import flow, progress, remote
from adapters.platform.flow import Flow
from engine.contract import Engine
from engine.errors import ConfigurationError
from engine.types import Answer
from tests.adapters.conftest import ANSWERS, answers_on, asked, texts_on
from tests.helpers.listing import Listing


def of_items(gateway) -> Counter:
    """How many requests there were for each item's bytes and annotations, and how many for all together."""
    counted = Counter()
    for request in gateway.requests:
        parts = request.path.strip("/").split("/")
        counted[parts[1] if parts[0] == "items" else parts[-1]] += 1
    return counted


def test_an_item_costs_two_requests_and_hundred_items_four_more(
    adapter, upload, questions, messages, gateway, monkeypatch
):
    monkeypatch.setattr(flow, "TOGETHER", 10)
    items = [upload(f"{i}.json", [questions, messages][i % 2]) for i in range(20)]
    for queries in (2 * 3, 2 * 4):  # The second time there are old answers to remove.
        gateway.requests.clear()
        adapter.predict_items(items)
        counted = of_items(gateway)
        assert {counted[item.id] for item in items} == {2}
        assert counted.total() == 2 * 20 + queries


def test_items_wait_for_no_other_items_requests(answering, upload, questions, gateway):
    """The first is answered and stored while the last is being read, which waits for just that."""
    first, last = upload("first.json", questions), upload("last.json", questions)
    stored = threading.Event()
    read = remote.content

    def content(item_id: str) -> bytes:
        if item_id == last.id:
            assert stored.wait(30)
        return read(item_id)

    adapter = answering(asked)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "content", content)
        patch.setattr(flow.storing, "store", then(flow.storing.store, stored.set))
        adapter.predict_items([first, last])
    assert texts_on(first) == texts_on(last) == ANSWERS


def then(function: Any, after: Any) -> Any:
    def both(*arguments: Any) -> Any:
        result = function(*arguments)
        after()
        return result

    return both


class Slow(Engine):
    """An engine that has answered nothing until it was told that nothing more is there yet."""

    def stream(self, requests, follow=None, deltas=True):
        from engine.types import Chunk, Usage

        waiting = []
        for index, request in enumerate(one for one in self.noting(requests) if one is not None):
            waiting.append((index, request))
        for index, request in waiting:
            answer = Answer("x", (), None, None, "stop", Usage(0, 0))
            while request is not None:
                request = follow(index, answer)
                yield Chunk(index, "", answer)

    def noting(self, requests):
        self.pauses = 0
        for request in requests:
            self.pauses += request is None
            yield request


def test_the_engine_goes_on_while_nothing_is_there(answering, upload, questions):
    first, last = upload("first.json", questions), upload("last.json", questions)
    adapter = answering(asked)
    adapter.adapter._engine = engine = Slow()
    read = remote.content

    def content(item_id: str) -> bytes:
        while item_id == last.id and not getattr(engine, "pauses", 0):
            threading.Event().wait(0.001)
        return read(item_id)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "content", content)
        adapter.predict_items([first, last])
    assert engine.pauses > 0
    assert len(answers_on(first)) == len(answers_on(last)) == 3


def test_few_items_are_on_their_way_however_many_there_are(
    answering, upload, questions, dataset, monkeypatch
):
    monkeypatch.setattr(flow, "IN_PROGRESS", 3)
    monkeypatch.setattr(flow, "TOGETHER", 4)
    monkeypatch.setattr(remote, "PAGE", 2)
    items = [upload(f"{i:02}.json", questions) for i in range(12)]
    lock, most, there = threading.Lock(), 0, 0

    def read(item_id, original=remote.content):
        nonlocal most, there
        with lock:
            there += 1
            most = max(most, there)
        return original(item_id)

    def store(*arguments, original=flow.storing.store):
        nonlocal there
        stored = original(*arguments)
        with lock:
            there -= 1
        return stored

    monkeypatch.setattr(remote, "content", read)
    monkeypatch.setattr(flow.storing, "store", store)
    answering(asked).predict_dataset(dataset)
    assert [texts_on(item) for item in items] == [ANSWERS] * 12
    assert most <= 3


class Counted(Snapshot):
    """A snapshot that is counted while it is alive."""

    # Appended to and popped from: atomic in any thread.
    alive: ClassVar[list[None]] = []

    def __init__(self, *args):
        super().__init__(*args)
        self.alive.append(None)

    def __del__(self):
        self.alive.pop()


def test_what_is_kept_of_a_dataset_does_not_grow_with_it(answering, monkeypatch):
    """Of 100,000 items a run holds no more than of 3,000: looked at every 500 answers."""
    listing, alive = Listing(3000), []
    monkeypatch.setattr(dataloop, "Snapshot", Counted)

    def reply(request):
        adapter.adapter.engine.requests.clear()
        if listing.stored // 500 >= len(alive):
            alive.append(len(Counted.alive))
        return "hi"

    adapter = answering(reply)
    monkeypatch.setattr(remote, "ask", listing.ask)
    adapter.predict_dataset(SimpleNamespace(id="1"))
    assert listing.stored == 3000
    assert len(alive) == 6
    # On their way, in the chunk that was just listed, and waiting to be looked at again.
    assert max(alive) <= flow.IN_PROGRESS + flow.TOGETHER + flow.WORKERS * flow.TOGETHER
    assert alive[-1] <= 2 * max(alive[:3])


def test_a_dataset_is_listed_as_it_is_answered(answering, upload, questions, dataset, gateway, monkeypatch):
    monkeypatch.setattr(flow, "IN_PROGRESS", 2)
    monkeypatch.setattr(flow, "TOGETHER", 2)
    monkeypatch.setattr(remote, "PAGE", 2)
    for i in range(10):
        upload(f"{i}.json", questions)
    gateway.requests.clear()
    listed_by_then = []

    def reply(request):
        pages = [r for r in gateway.sent("POST", "/query$") if r.json["resource"] == "items"]
        listed_by_then.append(len(pages))
        return asked(request)

    answering(reply).predict_dataset(dataset)
    assert listed_by_then[0] < 5


def test_a_filter_chooses_the_items_of_a_dataset(adapter, upload, questions, dataset, dl):
    chosen, other = upload("chosen.json", questions), upload("other.json", questions)
    adapter.predict_dataset(dataset, filters=dl.Filters(field="name", values="chosen*"))
    assert texts_on(chosen) == ANSWERS
    assert texts_on(other) == []
    # As the platform's runner hands one over.
    adapter.predict_dataset(dataset, filters={"$and": [{"name": "other.json"}]})
    assert texts_on(other) == ANSWERS


def test_items_that_join_or_leave_a_filter_while_it_is_listed_shift_no_other(
    adapter, upload, questions, dataset, monkeypatch
):
    """Each item leaves the filter as soon as it has an answer."""
    monkeypatch.setattr(flow, "IN_PROGRESS", 2)
    monkeypatch.setattr(flow, "TOGETHER", 2)
    monkeypatch.setattr(remote, "PAGE", 2)
    items = [upload(f"{i}.json", questions) for i in range(9)]
    adapter.predict_dataset(dataset, filters={"$and": [{"annotated": False}]})
    assert [texts_on(item) for item in items] == [ANSWERS] * 9


def test_an_item_named_twice_is_answered_once(adapter, upload, questions):
    item = upload("questions.json", questions)
    adapter.predict_items([item, item])
    assert len(adapter.adapter.engine.requests) == 3
    assert texts_on(item) == ANSWERS


def test_items_of_several_datasets_go_together(adapter, upload, questions, project, tmp_path):
    (tmp_path / "item.json").write_text(json.dumps(questions))
    elsewhere = project.datasets.create(dataset_name="elsewhere")
    items = [
        upload("questions.json", questions),
        elsewhere.items.upload(local_path=str(tmp_path / "item.json"), raise_on_error=True),
    ]
    adapter.predict_items(items)
    assert [texts_on(item) for item in items] == [ANSWERS, ANSWERS]


def test_no_items_are_no_fault(adapter, dataset):
    assert adapter.predict_items([]) == ([], [])
    adapter.predict_dataset(dataset)


def test_what_is_returned_is_in_the_order_of_the_items(adapter, upload, questions, messages):
    items = [upload(f"{i}.json", [questions, messages][i % 2]) for i in range(4)]
    _, annotations = adapter.predict_items(items)
    assert [annotation.item.id for annotation in annotations] == [
        item.id for i, item in enumerate(items) for _ in range([3, 2][i % 2])
    ]


class Told:
    """What the platform's runner hands to a function that asks for it."""

    def __init__(self, fails: bool = False) -> None:
        self.updates: list[tuple[int, str]] = []
        self.fails = fails

    def update(self, progress: int, message: str) -> None:
        self.updates.append((progress, message))
        if self.fails:
            raise OSError("the platform is elsewhere")


@pytest.mark.parametrize("fails", [False, True])
def test_the_execution_is_told_how_far_it_is(adapter, upload, questions, monkeypatch, fails):
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    items, told = [upload(f"{i}.json", questions) for i in range(4)], Told(fails)
    adapter.predict_items(items, progress=told)
    assert told.updates[-1] == (100, "4 of 4 items")
    assert [percent for percent, _ in told.updates] == sorted(percent for percent, _ in told.updates)
    assert [texts_on(item) for item in items] == [ANSWERS] * 4


def test_options_of_a_call_reach_the_model(adapter, upload, questions):
    item = upload("questions.json", questions)
    adapter.predict_items([item], max_new_tokens=3)
    assert {r.options.max_new_tokens for r in adapter.adapter.engine.requests} == {3}
    with pytest.raises(ConfigurationError, match="did you mean 'max_new_tokens'"):
        adapter.predict_items([item], max_new_token=3)


def test_what_was_answered_before_an_error_ends_the_run_is_stored(answering, upload, questions, monkeypatch):
    monkeypatch.setattr(flow, "IN_PROGRESS", 1)
    good, bad = upload("good.json", questions), upload("bad.json", questions)

    def reply(request):
        if len(adapter.adapter.engine.requests) > 3:
            raise KeyboardInterrupt
        return asked(request)

    adapter = answering(reply)
    with pytest.raises(KeyboardInterrupt):
        adapter.predict_items([good, bad])
    assert sorted([texts_on(good), texts_on(bad)]) == [[], ANSWERS]
    assert not [thread for thread in threading.enumerate() if "_feed" in thread.name]


BATCHED = """
class HuggingAdapter:
    sizes = []

    def __init__(self, configuration):
        pass

    def predict(self, batch, **kwargs):
        self.sizes.append(len(batch))
        return [[self.answer(key) for key in item["prompts"]] for item in batch]

    def answer(self, key):
        model = {"name": "batched", "confidence": 0.5}
        metadata = {"system": {"promptId": key}, "user": {"annotation_type": "prediction", "model": model}}
        return {"type": "text", "label": "q", "coordinates": "so-so", "metadata": metadata}
"""


def test_a_model_file_with_its_own_predict_gets_full_batches(
    model_entity, upload, questions, tmp_path, monkeypatch
):
    from adapters import registry

    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "batched.py").write_text(BATCHED)
    monkeypatch.setattr(registry, "FOLDER", tmp_path / "models")
    adapter = ModelAdapter(model_entity=model_entity({"module_name": "batched", "resume": False}))
    items = [upload(f"{i}.json", questions) for i in range(7)]
    adapter.predict_items(items, batch_size=3)
    assert adapter.adapter.sizes == [3, 3, 1]
    assert [texts_on(item) for item in items] == [[("first", "so-so"), ("second", "so-so")]] * 7
    adapter.predict_items(items, batch_size=3, resume=True)
    assert adapter.adapter.sizes == [3, 3, 1]


def test_a_name_with_a_star_is_no_pattern(answering, upload, questions):
    item = upload("questions.json", questions)
    tiny, star = answering(asked), answering(lambda request: "star", name="star")
    star.model_entity.name = "t*"
    tiny.predict_items([item])
    star.predict_items([item])
    assert texts_on(item) == sorted([*ANSWERS, ("first", "star"), ("first", "star"), ("second", "star")])


def test_the_flow_says_who_is_missing_where_a_writer_breaks(answering, upload, questions, monkeypatch):
    item, good = upload("questions.json", questions), upload("good.json", questions)

    def store(seen, annotations, original=flow.storing.store):
        if seen.id == item.id:
            raise RuntimeError("a bug of ours")
        return original(seen, annotations)

    monkeypatch.setattr(flow.storing, "store", store)
    with pytest.raises(PredictionError, match="RuntimeError") as raised:
        answering(asked).predict_items([item, good])
    assert [failure.item for failure in raised.value.failures] == [item.id]
    assert texts_on(good) == ANSWERS


def test_answers_that_cannot_be_listed_name_their_items(
    answering, upload, questions, gateway, monkeypatch, no_pauses
):
    adapter, item = answering(asked), upload("questions.json", questions)
    gateway.fail("POST", "/query$", status=500, times=math.inf)
    with pytest.raises(PredictionError, match="its answers could not be listed: 500") as raised:
        adapter.predict_items([item])
    assert [failure.item for failure in raised.value.failures] == [item.id]


def test_answers_that_cannot_be_listed_together_are_one_by_one(adapter, changing, upload, questions, gateway):
    items = [upload(f"{i}.json", questions) for i in range(3)]
    changing.predict_items(items)
    gateway.fail("POST", "/query$", status=400)
    adapter.predict_items(items)
    assert [texts_on(item) for item in items] == [ANSWERS] * 3


def test_the_flow_starts_nothing_before_it_runs():
    before = threading.active_count()
    Flow("tiny", lambda answers: [], lambda identity, records: None)
    assert threading.active_count() == before
