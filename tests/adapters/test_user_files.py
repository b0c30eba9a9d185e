"""Model files that users wrote before this package, with nothing of ours in them, work unchanged."""

import json
import shutil
from pathlib import Path

import pytest

import models
from adapters.cli import main
from adapters.dataloop import ModelAdapter, PredictionError
from engine.errors import Unsupported
from tests import tiny

WRITTEN = Path(__file__).parent / "user_files" / "dialogpt-large.py"


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
    assert [failure.item for failure in raised.value.failures] == [bad.id]
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


def test_the_command_line_answers_with_a_users_file_too(user_models, dialogpt, tmp_path, questions, capsys):
    shutil.copy(WRITTEN, user_models)
    (tmp_path / "item.json").write_text(json.dumps(questions))
    file = str(tmp_path / "item.json")
    assert main(["predict", file, "--json", "--model", "dialogpt-large"]) == 0
    (answers,) = json.loads(capsys.readouterr().out)
    assert len(answers) == 3
    assert all(0 < answer["metadata"]["user"]["model"]["confidence"] <= 1 for answer in answers)
    assert main(["predict", file, "--model", "dialogpt-large"]) == 0
    assert "And again" in capsys.readouterr().out


def test_a_users_file_that_raises_on_one_item_has_null_in_its_place(user_models, tmp_path, questions, capsys):
    (user_models / "moody.py").write_text(MOODY)
    (tmp_path / "good.json").write_text(json.dumps(questions))
    (tmp_path / "bad.json").write_text(json.dumps({"prompts": {"bad": questions["prompts"]["first"]}}))
    files = [str(tmp_path / name) for name in ("good.json", "bad.json")]
    arguments = ["--json", "--model", "moody", "--set", "confidence_given=0.5"]
    assert main(["predict", *files, *arguments]) == 1
    printed = capsys.readouterr()
    good, bad = json.loads(printed.out)
    assert len(good) == 2
    assert bad is None
    assert f"error: {files[1]}: KeyError: 'a mood'" in printed.err


def test_a_users_file_without_save_says_what_it_lacks(user_models, model_entity):
    (user_models / "moody.py").write_text(MOODY)
    adapter = ModelAdapter(model_entity=model_entity({"module_name": "moody", "confidence_given": 0.5}))
    with pytest.raises(Unsupported, match=r"give its HuggingAdapter a method save\(local_path\)"):
        adapter.save_to_model()


def test_a_users_file_may_load_its_weights_late(user_models, model_entity, tmp_path):
    (user_models / "short.py").write_text(
        "class HuggingAdapter:\n"
        "    def __init__(self, configuration): self.path = 'unset'\n"
        "    def load(self, local_path): self.path = local_path\n"
        "    def predict(self, batch, **kwargs): return []\n"
    )
    assert models.load("short").path is None
    assert ModelAdapter(model_entity=model_entity({"module_name": "short"})).adapter.path not in (
        None,
        "unset",
    )
