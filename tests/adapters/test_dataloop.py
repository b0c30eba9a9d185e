"""The platform's side, with the real SDK against a local platform over HTTP."""

import logging
import traceback
from pathlib import Path
from typing import Any

import dtlpy
import pytest

from adapters.dataloop import ModelAdapter, PredictionError
from engine.errors import ConfigurationError, LoadError
from tests import tiny
from tests.helpers.servers.misbehaving import Server


@pytest.fixture
def adapter(model_entity, tiny_model: Path) -> ModelAdapter:
    """A tiny model, loaded the way the platform's runner does it."""
    configuration = {
        "module_name": "models.auto_causal_lm",
        "model_name": str(tiny_model),
        "max_new_tokens": 8,
    }
    return ModelAdapter(model_entity=model_entity(configuration))


class SdkAlone(dtlpy.BaseModelAdapter):
    """What the SDK itself does at a load."""

    def load(self, local_path: str, **kwargs: Any) -> None:
        pass


def answers_on(item: Any) -> list[dict]:
    return [annotation.to_json() for annotation in item.annotations.list()]


def test_answers_land_as_free_text_signed_in_both_places(adapter, upload, questions):
    item = upload("questions.json", questions)
    items, returned = adapter.predict_items([item])
    assert [i.id for i in items] == [item.id]
    stored = answers_on(item)
    assert len(stored) == len(returned) == 3
    assert sorted(a["metadata"]["system"]["promptId"] for a in stored) == ["first", "first", "second"]
    for annotation in stored:
        assert annotation["type"] == "text"
        assert annotation["label"] == "q"
        user, system = annotation["metadata"]["user"], annotation["metadata"]["system"]
        assert user["annotation_type"] == "prediction"
        assert user["model"] == system["model"]
        assert user["model"]["name"] == "tiny"
        assert user["model"]["model_id"] == adapter.model_entity.id
        assert 0 <= user["model"]["confidence"] <= 1


def test_messages_are_answered_turn_by_turn_and_then_only_the_last(adapter, upload, messages, dl):
    item = upload("messages.json", messages)
    adapter.predict_items([item])
    first = {a["metadata"]["system"]["promptId"]: a for a in answers_on(item)}
    assert set(first) == {"1", "2"}
    adapter.predict_items([item])
    second = {a["metadata"]["system"]["promptId"]: a for a in answers_on(item)}
    assert len(answers_on(item)) == 2
    assert second["1"]["id"] == first["1"]["id"], "an answered turn keeps its answer"
    assert second["2"]["id"] != first["2"]["id"], "the last turn is answered anew"


def test_a_trace_is_answered_and_its_file_is_left_alone(adapter, dataset):
    trace = dtlpy.LLMTrace(name="session.json")
    trace.add_message({"role": "user", "content": "Hello"})
    trace.add_message({"role": "user", "content": "And again"})
    item = dataset.items.upload(local_path=trace, raise_on_error=True)
    for _ in range(2):
        _, returned = adapter.predict_items([item])
        assert sorted(a["metadata"]["system"]["promptId"] for a in answers_on(item)) == ["0", "1"]
        assert {annotation.id for annotation in returned} == {a["id"] for a in answers_on(item)}
    assert adapter.predict_items([item], resume=True)[1] == [], "all its questions have an answer"
    assert dtlpy.LLMTrace.from_item(item).to_json() == trace.to_json()


def test_a_second_run_replaces_the_first(adapter, upload, questions):
    item = upload("questions.json", questions)
    adapter.predict_items([item])
    before = {a["id"] for a in answers_on(item)}
    adapter.predict_items([item])
    after = {a["id"] for a in answers_on(item)}
    assert len(after) == 3
    assert not before & after


def test_nothing_else_on_the_item_is_touched(adapter, upload, questions, dl):
    item = upload("questions.json", questions)
    human = dl.FreeText(text="a person's", label="q")
    other = dl.AnnotationCollection()
    other.add(human, prompt_id="first")
    other.add(human, prompt_id="first", model_info={"name": "other", "model_id": "0", "confidence": 0.5})
    item.annotations.upload(annotations=other)
    before = answers_on(item)
    adapter.predict_items([item])
    adapter.predict_items([item])
    assert [
        a for a in answers_on(item) if a["metadata"]["system"].get("model", {}).get("name") != "tiny"
    ] == before


def test_one_bad_item_costs_no_other_and_keeps_what_it_had(adapter, upload, questions, dl):
    good = upload("good.json", questions)
    changed = upload("changed.json", questions)
    adapter.predict_items([changed])
    old = answers_on(changed)
    changed = upload("changed.json", {**questions, "prompts": {}})
    broken, binary = upload("broken.json", b"{"), upload("binary.json", b"\xff\xfe\x00")
    with pytest.raises(PredictionError) as raised:
        adapter.predict_items([broken, good, changed, binary])
    assert {failure.item for failure in raised.value.failures} == {broken.id, changed.id, binary.id}
    for failure in raised.value.failures:
        assert f"{failure.item}: {failure.reason}" in str(raised.value)
    assert len(answers_on(good)) == 3
    assert answers_on(broken) == []
    assert answers_on(changed) == old
    assert "'prompts' is empty" in str(raised.value)


def test_answers_stay_when_their_replacement_cannot_be_stored(adapter, upload, questions, gateway):
    item = upload("questions.json", questions)
    adapter.predict_items([item])
    before = answers_on(item)
    gateway.fail(method="POST", path=rf"/items/{item.id}/annotations$", status=400, when="before", times=5)
    good = upload("good.json", questions)
    with pytest.raises(PredictionError, match="could not be stored") as raised:
        adapter.predict_items([good, item])
    assert [failure.item for failure in raised.value.failures] == [item.id]
    assert answers_on(item) == before
    assert len(answers_on(good)) == 3


def test_a_conversation_that_fails_half_way_keeps_the_answers_it_had(adapter, upload, questions):
    item = upload("questions.json", questions)
    adapter.predict_items([item])
    before = [a for a in answers_on(item) if a["metadata"]["system"]["promptId"] == "first"]
    questions["prompts"]["first"]["2"]["value"] = "too long " * 100
    item = upload("questions.json", questions)
    with pytest.raises(PredictionError) as raised:
        adapter.predict_items([item])
    (failure,) = raised.value.failures
    assert (failure.item, failure.key) == (item.id, "first")
    assert [a for a in answers_on(item) if a["metadata"]["system"]["promptId"] == "first"] == before
    assert len(answers_on(item)) == 3


def test_what_the_platform_stores_as_null_is_as_if_it_was_not_there(
    model_entity, tiny_model, upload, questions
):
    configuration = {"module_name": "auto_causal_lm", "model_name": str(tiny_model), "max_new_tokens": 4}
    model = model_entity(configuration | {"batch_size": None, "temperature": None, "system_prompt": None})
    item = upload("questions.json", questions)
    ModelAdapter(model_entity=model).predict_items([item])
    assert len(answers_on(item)) == 3


def test_predict_says_what_failed_where_nobody_takes_it(adapter, upload, caplog):
    prepared = adapter.prepare_item_func(upload("broken.json", b"{"))
    with caplog.at_level("WARNING"):
        (answers,) = adapter.predict([prepared])
    assert len(answers) == 0
    assert f"no answer: {prepared.item}: it could not be read" in caplog.text


def test_an_item_that_cannot_be_downloaded_is_named(adapter, upload, questions, gateway, no_pauses):
    item, good = upload("questions.json", questions), upload("good.json", questions)
    gateway.fail(method="GET", path=rf"/items/{item.id}/stream", status=500, times=float("inf"))
    with pytest.raises(PredictionError, match="could not be downloaded") as raised:
        adapter.predict_items([item, good])
    assert [failure.item for failure in raised.value.failures] == [item.id]
    assert len(answers_on(good)) == 3


def test_a_load_writes_none_of_our_keys_to_the_platform(model_entity, tiny_model, gateway):
    model = model_entity({"module_name": "auto_causal_lm", "model_name": str(tiny_model)})
    configured = dict(model.configuration)
    ModelAdapter(model_entity=model)
    sdk_defaults = {
        "include_background",
        "upload_annotations",
        "clean_annotations",
        "overwrite_annotations",
        "upload_features",
        "root_path",
        "data_path",
        "output_path",
    }
    writes = gateway.sent("PATCH", "/ml/models/")
    gateway.requests.clear()
    SdkAlone(model_entity=model_entity({}, name="bare"))
    by_the_sdk = gateway.sent("PATCH", "/ml/models/")
    assert 0 < len(writes) <= len(by_the_sdk) + 1
    for write in writes:
        assert set(write.json["configuration"]) - set(configured) <= sdk_defaults


def test_a_model_loaded_before_is_not_written_at_all(model_entity, tiny_model, gateway, project):
    ModelAdapter(model_entity=model_entity({"module_name": "auto_causal_lm", "model_name": str(tiny_model)}))
    seen = len(gateway.requests)
    ModelAdapter(model_entity=project.models.get(model_name="tiny"))
    assert not [r for r in gateway.requests[seen:] if r.method in ("PATCH", "PUT")]


def test_artifacts_win_over_the_hub_id(model_entity, tiny_model, upload, questions):
    model = model_entity({"module_name": "smollm2_1_7b_instruct", "max_new_tokens": 4})
    model.artifacts.upload(filepath=f"{tiny_model}/*")
    adapter = ModelAdapter(model_entity=model)
    item = upload("questions.json", questions)
    adapter.predict_items([item])
    assert len(answers_on(item)) == 3


def test_saved_weights_become_the_models_artifacts(adapter, project):
    adapter.save_to_model()
    names = {
        Path(artifact.filename).name for artifact in project.models.get(model_name="tiny").artifacts.list()
    }
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names


@pytest.mark.parametrize(
    ("configuration", "reason"),
    [
        ({}, "has no module_name: set it to one of .*tiny_talk"),
        ({"module_name": None}, "has no module_name: set it to one of .*tiny_talk"),
        ({"module_name": "models.nobody"}, "there is no model 'models.nobody'"),
        ({"module_name": "tiny_talk", "max_new_token": 3}, "did you mean 'max_new_tokens'"),
    ],
)
def test_an_invalid_configuration_says_why(model_entity, configuration, reason):
    with pytest.raises(ConfigurationError, match=reason):
        ModelAdapter(model_entity=model_entity(configuration))


def test_no_prompt_or_answer_is_logged_above_debug(adapter, upload, questions, caplog):
    with caplog.at_level("INFO"):
        item = upload("questions.json", questions)
        adapter.predict_items([item])
    logged = caplog.text
    for text in [
        "Hello",
        "And again",
        "Grüß",
        *(a["coordinates"] for a in answers_on(item) if a["coordinates"]),
    ]:
        assert text not in logged


def test_a_dataset_is_answered_as_its_items_are(adapter, upload, questions, messages, dataset):
    items = [upload("questions.json", questions), upload("messages.json", messages)]
    adapter.predict_dataset(dataset)
    assert [len(answers_on(item)) for item in items] == [3, 2]


def test_an_execution_that_fails_on_an_item_names_it_on_the_platform(project, dataset, upload, questions):
    from creation import package_creation

    good, bad = upload("good.json", questions), upload("bad.json", b"{")
    package_creation(project, models=["inference_endpoint"])
    model = project.models.get(model_name="inference-endpoint")
    with Server() as server:  # So that the service's process need not load a model, which takes seconds.
        model.configuration |= {"base_url": server.url, "model_name": "served"}
        model.update().deploy()
        execution = project.models.get(model_name=model.name).predict(dataset_id=dataset.id).wait()
    assert execution.latest_status["status"] == "failed"
    assert f"{bad.id}: it could not be read" in execution.latest_status["message"]
    assert "2 of 2 items" in [status.get("message") for status in execution.status]
    assert len(answers_on(good)) == 3


def test_what_to_do_about_a_failed_load_comes_before_its_one_traceback(model_entity, tmp_path, caplog):
    tiny.save(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    configuration = {"module_name": "models.auto_causal_lm", "model_name": str(tmp_path)}
    entity = model_entity(configuration)
    with pytest.raises(LoadError) as raised:
        ModelAdapter(model_entity=entity)
    sentence = f"{tmp_path} cannot be loaded: its model.safetensors is damaged"
    logged = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert logged == [f"model {entity.name!r} cannot be loaded: {raised.value}"]
    assert sentence in logged[0]
    printed = "".join(traceback.format_exception(raised.value))
    assert printed.count("Traceback") == 1
    assert "safetensors_rust" not in printed
    with caplog.at_level(logging.DEBUG), pytest.raises(LoadError):
        ModelAdapter(model_entity=entity)
    assert "SafetensorError" in caplog.text
