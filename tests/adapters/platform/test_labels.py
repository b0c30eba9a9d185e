"""Label mode and token confidences on the platform: what is stored, read again, and shown."""

import json
from pathlib import Path

import pytest

from adapters.cli import main
from adapters.dataloop import ModelAdapter
from adapters.items.annotations import MAX_TOKENS, as_dict
from engine.types import Answer, Token, Usage
from tests.helpers import classifiers

LABELS = ["good", "bad", "neither"]


@pytest.fixture
def make(model_entity, tiny_model: Path):
    def make(**options) -> ModelAdapter:
        configuration = {"module_name": "auto_causal_lm", "model_name": str(tiny_model), "max_new_tokens": 6}
        return ModelAdapter(model_entity=model_entity(configuration | options))

    return make


def stored_on(item) -> list[dict]:
    return [annotation.to_json() for annotation in item.annotations.list()]


@pytest.mark.parametrize("door", ["predict_items", "predict"])
def test_a_label_lands_as_a_classification_with_its_confidence(make, upload, questions, door: str):
    adapter, item = make(labels=LABELS), upload("questions.json", questions)
    if door == "predict_items":
        adapter.predict_items([item])
    else:  # As the SDK's own flow calls it.
        [found] = adapter.predict([adapter.prepare_item_func(item)])
        item.annotations.upload(found)
    stored = stored_on(item)
    assert sorted(one["metadata"]["system"]["promptId"] for one in stored) == ["first", "first", "second"]
    for annotation in stored:
        assert annotation["type"] == "class"
        assert annotation["label"] in LABELS
        user = annotation["metadata"]["user"]
        assert user["model"]["confidence"] == pytest.approx(user["labels"][annotation["label"]], abs=1e-4)
        assert sum(user["labels"].values()) == pytest.approx(1, abs=1e-3)
        assert (user["model"]["name"], user["annotation_type"]) == ("tiny", "prediction")


def test_labels_are_replaced_by_the_next_run_and_kept_when_it_resumes(make, upload, questions):
    adapter, item = make(labels=LABELS), upload("questions.json", questions)
    adapter.predict_items([item])
    first = {one["id"] for one in stored_on(item)}
    adapter.predict_items([item], resume=True)
    assert {one["id"] for one in stored_on(item)} == first
    adapter.predict_items([item])
    second = {one["id"] for one in stored_on(item)}
    assert len(second) == 3
    assert not first & second


def test_a_labelled_message_is_part_of_its_conversation(make, upload, messages):
    adapter, item = make(labels=LABELS), upload("messages.json", messages)
    adapter.predict_items([item])
    first = {one["metadata"]["system"]["promptId"]: one["id"] for one in stored_on(item)}
    adapter.predict_items([item])
    second = {one["metadata"]["system"]["promptId"]: one["id"] for one in stored_on(item)}
    assert set(second) == set(first) == {"1", "2"}
    assert second["1"] == first["1"], "an answered turn keeps its label"


def test_the_probabilities_of_tokens_and_of_more_methods_are_stored(make, upload, questions):
    adapter = make(token_confidence=True, confidence_methods=["sequence", "max_entropy"])
    item = upload("questions.json", questions)
    adapter.predict_items([item])
    for annotation in stored_on(item):
        user = annotation["metadata"]["user"]
        assert "".join(text for text, _ in user["tokens"]).strip() == annotation["coordinates"]
        assert all(0 <= probability <= 1 for _, probability in user["tokens"])
        assert set(user["confidences"]) == {"sequence", "max_entropy"}


def test_only_the_first_tokens_of_a_long_answer_are_stored():
    tokens = tuple(Token("a", -0.5) for _ in range(MAX_TOKENS + 50))
    answer = Answer("a" * len(tokens), (), None, 0.5, "stop", Usage(0, 0), tokens=tokens)
    assert (
        as_dict("1", answer, "m", tokens=True)["metadata"]["user"]["tokens"] == [["a", 0.6065]] * MAX_TOKENS
    )
    assert "tokens" not in as_dict("1", answer, "m")["metadata"]["user"]


def test_the_command_line_shows_labels(tmp_path: Path, tiny_model: Path, questions, capsys):
    path = tmp_path / "questions.json"
    path.write_text(json.dumps(questions))
    words = ["predict", str(path), "--model", "auto_causal_lm", "--set", f"model_name={tiny_model}"]
    assert main([*words, "--set", f"labels={json.dumps(LABELS)}"]) == 0
    assert sum(any(label in line for label in LABELS) for line in capsys.readouterr().out.splitlines()) == 3


def test_a_classifier_labels_by_its_own_labels(model_entity, upload, questions, tmp_path):
    folder = classifiers.save(tmp_path / "classifier")
    configuration = {"module_name": "auto_causal_lm", "model_name": str(folder)}
    item = upload("questions.json", questions)
    ModelAdapter(model_entity=model_entity(configuration)).predict_items([item])
    for annotation in (stored := stored_on(item)):
        assert annotation["type"] == "class"
        assert list(annotation["metadata"]["user"]["labels"]) == classifiers.LABELS
    assert len(stored) == 3
