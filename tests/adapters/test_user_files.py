"""Model files that users wrote before this package, with nothing of ours in them, work unchanged."""

import shutil
from pathlib import Path

import pytest

import models
from adapters.dataloop import ModelAdapter, PredictionError
from tests import tiny

WRITTEN = Path(__file__).parent / "user_files" / "dialogpt-large.py"


@pytest.fixture
def user_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models folder of the user's own."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setattr(models, "FOLDER", folder)
    for module in ("models.dialogpt-large", "models.moody", "models.short"):
        monkeypatch.delitem(models.sys.modules, module, raising=False)
    return folder


@pytest.fixture
def dialogpt(in_hub_cache, tmp_path: Path) -> None:
    """A tiny GPT-2 under DialoGPT's hub id."""
    in_hub_cache("microsoft/DialoGPT-large", tiny.save(tmp_path / "dialogpt", "gpt2", chat_template=None))


@pytest.mark.parametrize("module_name", ["models.dialogpt-large", "models.dialogpt_large"])
def test_the_dialogpt_example_answers_on_the_platform(
    module_name, user_models, dialogpt, model_entity, upload, questions
):
    shutil.copy(WRITTEN, user_models)
    adapter = ModelAdapter(
        model_entity=model_entity(
            {"weights_filename": "none", "module_name": module_name, "top_k": 7}, name="dialogpt"
        )
    )
    assert adapter.adapter.top_k == 7
    item = upload("questions.json", questions)
    _, annotations = adapter.predict_items([item])
    stored = [annotation.to_json() for annotation in item.annotations.list()]
    assert len(annotations) == len(stored) == 3
    assert sorted(a["metadata"]["system"]["promptId"] for a in stored) == ["first", "first", "second"]
    for annotation in stored:
        assert annotation["label"] == "q"
        assert annotation["metadata"]["user"]["annotation_type"] == "prediction"
        model = annotation["metadata"]["user"]["model"]
        assert model["name"] == annotation["metadata"]["system"]["model"]["name"] == "dialogpt"
        assert 0 < model["confidence"] <= 1


MOODY = """
class HuggingAdapter:
    def __init__(self, configuration):
        self.confidence = configuration["confidence_given"]

    def predict(self, batch, **kwargs):
        return [[self.answer(key) for key in item["prompts"]] for item in batch]

    def answer(self, key):
        if key == "bad":
            raise KeyError("a mood")
        model = {"name": "moody", "confidence": self.confidence}
        metadata = {"system": {"promptId": key}, "user": {"annotation_type": "prediction", "model": model}}
        return {"type": "text", "label": "q", "coordinates": "so-so", "metadata": metadata}
"""


def test_an_item_on_which_a_users_file_raises_costs_no_other(user_models, model_entity, upload, questions):
    (user_models / "moody.py").write_text(MOODY)
    adapter = ModelAdapter(model_entity=model_entity({"module_name": "moody", "confidence_given": 0.5}))
    good = upload("good.json", questions)
    bad = upload("bad.json", {**questions, "prompts": {"bad": questions["prompts"]["first"]}})
    with pytest.raises(PredictionError, match="KeyError: 'a mood'") as raised:
        adapter.predict_items([bad, good])
    assert [item for item, _ in raised.value.failures] == [bad.id]
    assert len(good.annotations.list()) == 2
    assert len(bad.annotations.list()) == 0


@pytest.mark.parametrize(
    ("given", "stored"), [(1.0000002, 1.0), (-1e-9, 0.0), (float("nan"), None), (None, None)]
)
def test_a_confidence_is_a_number_in_0_to_1_or_absent(
    given, stored, user_models, model_entity, upload, questions
):
    (user_models / "moody.py").write_text(
        MOODY.replace('configuration["confidence_given"]', f"float('{given}')")
    )
    if given is None:
        (user_models / "moody.py").write_text(MOODY.replace('configuration["confidence_given"]', "None"))
    adapter = ModelAdapter(model_entity=model_entity({"module_name": "moody"}))
    item = upload("questions.json", questions)
    adapter.predict_items([item])
    for annotation in item.annotations.list():
        for place in ("user", "system"):
            assert annotation.metadata[place]["model"].get("confidence") == stored


def test_too_few_results_are_an_error_not_a_shift(user_models, model_entity, upload, questions):
    (user_models / "short.py").write_text(
        "class HuggingAdapter:\n"
        "    def __init__(self, configuration): pass\n"
        "    def predict(self, batch, **kwargs): return []\n"
    )
    adapter = ModelAdapter(model_entity=model_entity({"module_name": "short"}))
    items = [upload(f"{i}.json", questions) for i in range(2)]
    with pytest.raises(PredictionError, match="returned 0 lists for 1 items") as raised:
        adapter.predict_items(items)
    assert len(raised.value.failures) == 2
