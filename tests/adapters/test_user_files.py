"""Model files that users wrote before this package, with nothing of ours in them, work unchanged."""

import json
import shutil
from pathlib import Path

import pytest

import models
from adapters.cli import main
from adapters.dataloop import ModelAdapter, PredictionError
from adapters.prediction.batches import predict_each
from engine.errors import Unsupported
from tests import tiny
from tests.adapters.conftest import answers_on, texts_on

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


ECHO = """
import dtlpy as dl


class HuggingAdapter:
    def __init__(self, configuration):
        self.form = configuration.get("form", "collections")

    def predict(self, batch, **kwargs):
        return [getattr(self, self.form)(item["prompts"]) for item in batch]

    def collections(self, prompts):
        found = dl.AnnotationCollection()
        for key, prompt in prompts.items():
            for question in prompt.values():
                model = {"name": "echo", "confidence": 0.5}
                found.add(dl.FreeText(text=question["value"]), prompt_id=key, model_info=model)
        return found

    def annotations(self, prompts):
        return list(self.collections(prompts))

    def labels(self, prompts):
        found = dl.AnnotationCollection()
        found.add(dl.Classification(label="good"), prompt_id="first")
        return found

    def prompts(self, prompts):
        found = dl.AnnotationCollection()
        found.add(dl.FreeText(text="Whose?"))
        return found

    def plain(self, prompts):
        found = dl.AnnotationCollection()
        found.add(dl.FreeText(text="No confidence."), prompt_id="first")
        return found

    def odd(self, prompts):
        odd = {"texts": "x", "nothing": None, "numbers": [3]}
        [key, *more] = prompts
        return self.collections(prompts) if more else odd[key]
"""


@pytest.fixture
def echo(user_models, model_entity):
    """Makes an adapter of a file that returns the SDK's own collections, as upstream's do since 2024."""
    (user_models / "echo.py").write_text(ECHO)
    return lambda form: ModelAdapter(model_entity=model_entity({"module_name": "echo", "form": form}))


@pytest.mark.parametrize("form", ["collections", "annotations"])
def test_a_users_file_may_return_annotations_of_the_sdk(form, echo, upload, questions):
    adapter = echo(form)
    item = upload("questions.json", questions)
    adapter.predict_items([item])
    asked = [("first", "And again"), ("first", "Hello"), ("second", "Grüß Gott")]
    assert texts_on(item) == asked
    for annotation in answers_on(item):
        assert annotation["metadata"]["user"]["annotation_type"] == "prediction"
        for place in ("user", "system"):
            model = {"name": "tiny", "model_id": adapter.model_entity.id, "confidence": 0.5}
            assert annotation["metadata"][place]["model"] == model
    adapter.predict_items([item])
    assert texts_on(item) == asked, "the new in place of the old"
    [collected] = adapter.predict([adapter.prepare_item_func(item)])
    assert [annotation.coordinates for annotation in collected] == ["Hello", "And again", "Grüß Gott"]


def test_an_annotation_without_a_confidence_is_stored_without_one(echo, upload, questions):
    item = upload("questions.json", questions)
    echo("plain").predict_items([item])
    assert texts_on(item) == [("first", "No confidence.")]
    assert "confidence" not in answers_on(item)[0]["metadata"]["user"]["model"]


@pytest.mark.parametrize(
    ("form", "says"), [("labels", "not text: return dl.FreeText"), ("prompts", "give it as prompt_id")]
)
def test_an_annotation_that_is_no_answer_is_listed(form, says, echo, upload, questions):
    item = upload("questions.json", questions)
    with pytest.raises(PredictionError, match=says):
        echo(form).predict_items([item])
    assert answers_on(item) == []


def test_what_is_no_annotation_costs_no_other_item_its_answers(user_models, questions):
    (user_models / "echo.py").write_text(ECHO)
    adapter = models.load("echo", {"form": "odd"})
    batch = [{"prompts": {key: {}}} for key in ("texts", "nothing", "numbers")]
    answers, failures = predict_each(adapter, [*batch, questions], "echo")
    assert [len(found) for found in answers] == [0, 0, 0, 3]
    assert [failure.position for failure in failures] == [0, 1, 2]


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
    [item] = json.loads(capsys.readouterr().out)
    assert len(item["answers"]) == 3
    assert all(0 < answer["confidence"] <= 1 for answer in item["answers"])
    assert main(["predict", file, "--model", "dialogpt-large"]) == 0
    assert "And again" in capsys.readouterr().out


def test_a_users_file_that_raises_on_one_item_is_told_with_its_line(user_models, tmp_path, questions, capsys):
    (user_models / "moody.py").write_text(MOODY)
    (tmp_path / "good.json").write_text(json.dumps(questions))
    (tmp_path / "bad.json").write_text(json.dumps({"prompts": {"bad": questions["prompts"]["first"]}}))
    files = [str(tmp_path / name) for name in ("good.json", "bad.json")]
    arguments = ["--json", "--model", "moody", "--set", "confidence_given=0.5"]
    assert main(["predict", *files, *arguments]) == 1
    printed = capsys.readouterr()
    good, bad = json.loads(printed.out)
    assert [row["error"] for row in good["answers"]] == [None] * 3
    line = MOODY.splitlines().index('            raise KeyError("a mood")') + 1
    told = f"KeyError: 'a mood' (models/moody.py, line {line})"
    assert {row["error"] for row in bad["answers"]} == {told}
    assert f"error: {files[1]}: {told}" in printed.err


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
