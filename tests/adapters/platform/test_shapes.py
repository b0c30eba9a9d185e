"""JSON of any shape on the platform, written by anybody, costs no other item its answers."""

import gzip
import json
import string
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters.dataloop import ModelAdapter, PredictionError
from adapters.platform import remote
from tests.adapters.conftest import texts_on
from tests.adapters.items.test_fuzz import ANNOTATIONS, ANYTHING, ITEMS

QUESTION = {"prompts": {"p": {"1": {"mimetype": "application/text", "value": "Hello"}}}}
ANSWER = [("p", "An answer")]


@pytest.fixture
def adapter(answering, no_pauses) -> ModelAdapter:
    return answering(lambda request: "An answer", add_metadata=["deep", "system.size"])


def run(adapter: ModelAdapter, items: list[Any], **options: Any) -> dict[str, str]:
    """Answers items; why some of them have no answer, by id."""
    try:
        adapter.predict_items(items, **options)
    except PredictionError as error:
        return {failure.item: failure.reason for failure in error.failures}
    return {}


def annotate(item: Any, annotation: dict) -> None:
    """Puts an annotation on an item, as it is."""
    remote.ask("POST", f"/items/{item.id}/annotations", [{**annotation, "type": "text", "label": "q"}])


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


# Annotations


def by_tiny(**metadata: Any) -> dict:
    """An annotation of the model of these tests."""
    user = {"model": {"name": "tiny"}, **metadata.pop("user", {})}
    return {"type": "text", "label": "q", "coordinates": "x", "metadata": {"user": user, **metadata}}


ODD = {
    "a system's model that is null": by_tiny(system={"promptId": "p", "model": None}),
    "a system's model that is a text": by_tiny(system={"promptId": "p", "model": "tiny"}),
    "a system that is a list": by_tiny(system=[1]),
    "a system that is null": by_tiny(system=None),
    "a name that is an object": by_tiny(system={"promptId": "p", "model": {"name": {"a": 1}}}),
    "a prompt's key that is a number": by_tiny(system={"promptId": 7}),
    "a prompt's key that is a list": by_tiny(system={"promptId": ["p"]}),
    "a mark that is a text": by_tiny(system={"promptId": "p"}, user={"upload": "u"}),
    "a mark without a number": by_tiny(system={"promptId": "p"}, user={"upload": {"id": "u"}}),
    "a number that is a list": by_tiny(
        system={"promptId": "p"}, user={"upload": {"id": "u", "number": [0], "of": 1}}
    ),
    "a mark whose id is an object": by_tiny(
        system={"promptId": "p"}, user={"upload": {"id": {}, "number": 0, "of": 1}}
    ),
    "a mark of null": by_tiny(
        system={"promptId": "p"}, user={"upload": {"id": "u", "number": 0, "of": None}}
    ),
    "coordinates that are a list": {**by_tiny(system={"promptId": "p"}), "coordinates": [1]},
    "no coordinates": {key: value for key, value in by_tiny().items() if key != "coordinates"},
}


def test_an_annotation_of_any_shape_costs_no_item_its_answers(adapter, upload):
    items = {name: upload(f"{name}.json", QUESTION) for name in [*ODD, "none"]}
    for name, annotation in ODD.items():
        annotate(items[name], annotation)
    assert run(adapter, list(items.values())) == {}
    assert run(adapter, list(items.values()), resume=True) == {}
    for name, item in items.items():
        stored = [a["coordinates"] for a in on(item) if a["metadata"]["user"].get("annotation_type")]
        assert stored == ["An answer"], name


def test_a_persons_note_where_the_model_should_be_costs_no_item_its_answers(adapter, upload):
    items = [upload(f"{i}.json", QUESTION) for i in range(3)]
    adapter.predict_items(items[:1])
    [noted] = items[0].annotations.list()
    noted.metadata["user"]["model"] = "checked against tiny"
    noted.update(system_metadata=True)
    assert run(adapter, items) == {}
    assert [texts_on(item) for item in items] == [ANSWER] * 3


def test_an_item_is_prepared_whatever_annotations_it_has(adapter, upload):
    item = upload("messages.json", {"prompts": {"p": [{"value": "Hello"}]}})
    for annotation in ODD.values():
        annotate(item, annotation)
    assert isinstance(adapter.prepare_item_func(item), dict)
    [found] = adapter.predict([adapter.prepare_item_func(item)])
    assert [annotation.coordinates for annotation in found] == ["An answer"]


def on(item: Any) -> list[dict]:
    """Annotations of an item, as the platform has them: the SDK cannot read them all."""
    query = {"resource": "annotations", "filter": {"$and": [{"itemId": item.id}]}}
    return [annotation for page in remote.pages(item.dataset_id, query) for annotation in page]


# Items

HELLO = '{"prompts": {"p": {"1": {"value": "Hello"}}}%s}'
CONTENTS = {
    "a mark of the byte order": b"\xef\xbb\xbf" + json.dumps(QUESTION).encode(),
    "UTF-16": json.dumps(QUESTION).encode("utf-16"),
    "Latin-1": '{"prompts": {"é": 1}}'.encode("latin-1"),
    "gzip": gzip.compress(json.dumps(QUESTION).encode()),
    "nothing": b"",
    "half": json.dumps(QUESTION)[:-3].encode(),
    "NaN": (HELLO % ', "x": [NaN, -Infinity, 1e999]').encode(),
    "a number of 5000 digits": (HELLO % f', "x": {"9" * 5000}').encode(),
    "nested 100,000 deep": (HELLO % f', "x": {nested(100_000)}').encode(),
    "a role nested 980 deep": f'{{"prompts": {{"p": [{{"value": "Hello"}}, {{"mimetype": "metadata", '
    f'"value": {{"role": {nested(980)}}}}}]}}}}'.encode(),
    "a key twice": b'{"prompts": {"p": {"1": {"value": "Hi"}}, "p": [{"value": "Hello"}]}}',
    "half a surrogate pair": b'{"prompts": {"p\\ud800": {"1": {"value": "Hello \\udfff"}}}}',
    "a list": b"[]",
    "a trace of odd calls": b'{"messages": [{"role": "assistant", "tool_calls": {"a": 1}}, 3, {"role": {}}]}',
}


def test_an_item_of_any_content_costs_no_other_its_answers(adapter, upload):
    good = [upload(f"good{i}.json", QUESTION) for i in range(2)]
    odd = {name: upload(f"{name}.json", content) for name, content in CONTENTS.items()}
    missing = run(adapter, [good[0], *odd.values(), good[1]])
    assert [texts_on(item) for item in good] == [ANSWER] * 2
    for name, item in odd.items():
        assert (item.id in missing) is not bool(texts_on(item)), name
    read = {"a mark of the byte order", "UTF-16", "NaN", "a key twice", "half a surrogate pair"}
    assert not missing.keys() & {odd[name].id for name in read}


def test_what_a_search_found_may_have_any_shape(adapter, upload):
    found = {
        "deep": {"deep": json.loads(nested(400))},
        "text": {"deep": "x", "system": {"size": "large", "shebang": "?"}},
        "list": {"system": []},
        "empty": {},
        "large": {},
    }
    contents = {"empty": b" ", "large": b"x" * (2**20 + 1)}
    sources = {name: upload(f"{name}.txt", contents.get(name, b"Tea is green.")) for name in found}
    for name, metadata in found.items():
        remote.ask("PATCH", f"/items/{sources[name].id}?system=true", {"metadata": metadata})
    near = [source.id for source in sources.values()] + [3, None, {}, "../x", "0" * 24]
    metadata = {"mimetype": "metadata", "value": {"role": "user", "nearestItems": near}}
    content = {"prompts": {"p": [{"mimetype": "application/text", "value": "Hello"}, metadata]}}
    items = [upload("near.json", content), upload("good.json", QUESTION)]
    assert run(adapter, items) == {}
    assert [texts_on(item) for item in items] == [ANSWER] * 2


def test_a_datasets_items_may_have_any_metadata(adapter, upload, dataset):
    items = [upload(f"{i}.json", QUESTION) for i in range(3)]
    for item, metadata in zip(items, ({"system": []}, {"system": {"size": "large"}}), strict=False):
        remote.ask("PATCH", f"/items/{item.id}?system=true", {"metadata": metadata})
    adapter.predict_dataset(dataset)
    assert [len(on(item)) for item in items] == [1] * 3


# Anything

BODIES = st.one_of(
    ITEMS.map(lambda item: json.dumps(item).encode()),
    st.binary(max_size=20),
    st.text(string.printable, max_size=20).map(str.encode),
    ITEMS.map(lambda item: json.dumps(item).encode("utf-16")),
)


@settings(
    max_examples=10,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    bodies=st.lists(BODIES, min_size=4, max_size=8),
    annotations=st.lists(
        ANNOTATIONS.filter(bool) | st.builds(by_tiny, system=ANYTHING), min_size=8, max_size=8
    ),
)
def test_anything_costs_no_other_item_its_answers(
    adapter: ModelAdapter, upload: Callable[[str, Any], Any], bodies: list[bytes], annotations: list[dict]
):
    good = [upload(f"good{i}.json", QUESTION) for i in range(2)]
    odd = [upload(f"odd{i}.json", body) for i, body in enumerate(bodies)]
    for item, annotation in zip([good[1], *odd], annotations, strict=False):
        annotate(item, annotation)
    for resume in (False, True):
        missing = run(adapter, [good[0], *odd, good[1]], resume=resume)
        assert missing.keys() <= {item.id for item in odd}
        for item in good:
            assert "An answer" in [annotation.get("coordinates") for annotation in on(item)]
