"""One contract for every file in models/, run on a tiny random model of the same architecture."""

import json
from pathlib import Path

import pytest

import models
from adapters.hugging import HuggingAdapter
from engine.errors import ConfigurationError
from tests import tiny

ARCHITECTURES = {
    "auto_causal_lm": "qwen3",
    "dialogpt_large": "gpt2",
    "gpt2": "gpt2",
    "meta_llama_3_8b_instruct": "llama",
    "open_llama_3b": "llama",
    "phi_3_5_mini_instruct": "phi3",
    "smollm2_1_7b_instruct": "llama",
    "tiny_talk": "llama",
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder with a tiny model for each architecture that is named above."""
    folder = tmp_path_factory.mktemp("weights")
    return {name: tiny.save(folder / name, name) for name in sorted(set(ARCHITECTURES.values()))}


def test_every_model_file_has_its_architecture_here():
    assert sorted(ARCHITECTURES) == models.names()


@pytest.mark.parametrize("name", models.names())
def test_a_model_file_is_short_and_says_what_it_is(name: str):
    source = (models.FOLDER / f"{name}.py").read_text(encoding="utf-8")
    assert source.startswith('"""')
    assert len(source.splitlines()) <= 15


@pytest.mark.parametrize("name", models.names())
def test_a_model_file_loads_and_predicts(
    name: str, weights: dict[str, Path], questions: dict, messages: dict
):
    folder = weights[ARCHITECTURES[name]]
    adapter = models.find(name)({"model_name": str(folder), "max_new_tokens": 8})
    assert isinstance(adapter, HuggingAdapter)
    adapter.load()
    answers = adapter.predict([questions, messages])
    keys = [[answer["metadata"]["system"]["promptId"] for answer in item] for item in answers]
    assert keys == [["first", "first", "second"], ["1", "2"]]
    for answer in (answer for item in answers for answer in item):
        model = answer["metadata"]["user"]["model"]
        assert answer == {
            "type": "text",
            "label": "q",
            "coordinates": answer["coordinates"],
            "metadata": {
                "system": {"promptId": answer["metadata"]["system"]["promptId"]},
                "user": {"annotation_type": "prediction", "model": model},
            },
        }
        assert isinstance(answer["coordinates"], str)
        assert model["name"] == name
        assert 0 <= model["confidence"] <= 1
    assert json.loads(json.dumps(answers)) == answers


def test_weights_among_the_artifacts_win_over_the_hub_id(weights: dict[str, Path], questions: dict):
    adapter = models.find("smollm2_1_7b_instruct")({"max_new_tokens": 4})
    adapter.load(weights["qwen3"])
    assert adapter.engine.loaded.model.config.model_type == "qwen3"
    assert len(adapter.predict([questions])[0]) == 3


def test_a_folder_without_weights_leaves_the_hub_id(tmp_path: Path, weights: dict[str, Path]):
    adapter = models.load("auto_causal_lm", {"model_name": str(weights["llama"])})
    assert adapter.load(tmp_path).engine.loaded.model.config.model_type == "llama"


def test_what_was_saved_answers_the_same(tmp_path: Path, weights: dict[str, Path], questions: dict):
    adapter = models.load("auto_causal_lm", {"model_name": str(weights["llama"]), "max_new_tokens": 8})
    adapter.save(tmp_path)
    saved = models.find("auto_causal_lm")({"model_name": "nobody/nothing", "max_new_tokens": 8}).load(
        tmp_path
    )
    assert saved.predict([questions]) == adapter.predict([questions])


@pytest.mark.parametrize("spelling", ["tiny_talk", "tiny-talk", "models.tiny_talk", "models.tiny-talk"])
def test_one_model_has_one_name_however_it_is_spelt(spelling: str):
    assert models.find(spelling) is models.find("tiny_talk")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "models",
        "os",
        "../creation",
        "models.../x",
        "adapters.cli",
        "__init__",
        "/etc/passwd",
        "a.b",
        None,
    ],
)
def test_nothing_outside_the_folder_can_be_named(name: str):
    with pytest.raises(ConfigurationError, match=r"module_name is one of .*tiny_talk"):
        models.find(name)


def test_a_file_without_the_class_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "empty.py").write_text('"""No model."""\n')
    monkeypatch.setattr(models, "FOLDER", tmp_path)
    with pytest.raises(ConfigurationError, match=r"empty\.py has no class HuggingAdapter"):
        models.find("empty")


def test_a_wrong_option_is_named_with_the_nearest(weights: dict[str, Path]):
    with pytest.raises(ConfigurationError, match="'temprature': did you mean 'temperature'"):
        models.find("tiny_talk")({"temprature": 0.5})
