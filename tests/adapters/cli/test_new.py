"""`new` adds a model with its test line and the manifest, and refuses what would not work."""

import json
from pathlib import Path

import pytest

import creation
import models
from adapters.cli import main

TESTS = """\"\"\"Tests.\"\"\"

ARCHITECTURES = {
    "a_model": "gpt2",
    "z_model": "t5",
}
POOLINGS = {"bge": "cls"}
CLASSIFIERS = {}

REST = 1
"""


@pytest.fixture
def tests(user_models: Path) -> Path:
    """The tests of model files beside a folder of models of the user's own."""
    path = user_models.parent / "tests" / "test_models.py"
    path.parent.mkdir()
    path.write_text(TESTS)
    return path


@pytest.fixture
def cached(tmp_path: Path, in_hub_cache):
    """Puts a model's configuration into the hub library's cache."""

    def put(hub_id: str, **config: object) -> None:
        folder = tmp_path / "configs" / hub_id
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(config))
        in_hub_cache(hub_id, folder)

    return put


def test_a_language_model_gets_its_file_its_test_line_and_its_entry(tests, user_models, cached, capsys):
    cached("own/llama", model_type="llama", architectures=["LlamaForCausalLM"], hidden_size=576)
    assert main(["new", "my_llama", "--from", "own/llama"]) == 0
    made = models.find("my_llama")
    assert made.model_name == "own/llama"
    assert made.defaults == {"max_new_tokens": 256, "embeddings_size": 576}
    assert '    "a_model": "gpt2",\n    "my_llama": "llama",\n    "z_model": "t5",\n}\n' in tests.read_text()
    assert tests.read_text().endswith("REST = 1\n")
    [entry] = json.loads((user_models.parent / "dataloop.json").read_text())["components"]["models"]
    assert entry["configuration"]["model_name"] == "own/llama"
    assert "make docs" in capsys.readouterr().out


def test_an_encoder_becomes_an_embedding_model(tests, user_models, cached):
    cached("own/bert", model_type="bert", architectures=["BertModel"], hidden_size=384)
    assert main(["new", "my_bert", "--from", "own/bert"]) == 0
    assert models.find("my_bert").task == "embed"
    assert '"my_bert": "mean"' in tests.read_text()


def test_a_reranker_becomes_a_model_that_scores(tests, user_models, cached, capsys):
    cached("own/rank", model_type="bert", architectures=["BertForSequenceClassification"], hidden_size=384)
    assert main(["new", "my_rank", "--from", "own/rank"]) == 0
    made = models.find("my_rank")
    assert (made.task, made.defaults) == ("generate", {})
    assert '"my_rank": "bert"' in tests.read_text().split("CLASSIFIERS")[1]
    assert "python -m adapters score --model my_rank" in capsys.readouterr().out


def test_a_model_that_is_not_here_is_written_and_said_to_be_unchecked(tests, user_models, capsys):
    assert main(["new", "far", "--from", "own/far"]) == 0
    printed = capsys.readouterr().out
    assert "unchecked: the configuration of own/far is not on this machine" in printed
    assert 'Add "far" with its architecture to ARCHITECTURES' in printed
    assert tests.read_text() == TESTS


@pytest.mark.parametrize(
    ("name", "hub_id", "reason"),
    [
        ("Big-Model", "own/x", "is not a name for a file"),
        ("../x", "own/x", "is not a name for a file"),
        ("there", "own/x", "is there already"),
        ("x", "just-a-name", "has the form owner/name"),
        ("x", 'own/"; import os', "has the form owner/name"),
        ("x", "own/vit", "is not a language model that transformers knows (model_type 'vit')"),
        ("x", "own/code", "needs code of its own repository"),
    ],
)
def test_what_would_not_work_is_refused_and_nothing_is_written(
    name: str, hub_id: str, reason: str, tests, user_models, cached, capsys, request
):
    (user_models / "there.py").write_text("")
    if hub_id == "own/vit":
        cached(hub_id, model_type="vit", architectures=["ViTForImageClassification"])
    if hub_id == "own/code":
        cached(hub_id, model_type="unheard", auto_map={"AutoModel": "x.Y"})
    assert main(["new", name, "--from", hub_id]) == 2
    assert reason in capsys.readouterr().err
    assert [path.name for path in user_models.iterdir()] == ["there.py"]
    assert tests.read_text() == TESTS


def test_creation_adds_a_model_by_its_hub_id(tests, user_models, cached, capsys):
    cached("own/Tiny-Llama-0.6B", model_type="llama", architectures=["LlamaForCausalLM"], hidden_size=576)
    assert creation.main(["--add", "own/Tiny-Llama-0.6B"]) == 0
    made = models.find("tiny_llama_0_6b")
    assert (made.model_name, made.defaults["embeddings_size"]) == ("own/Tiny-Llama-0.6B", 576)
    assert '"tiny_llama_0_6b": "llama"' in tests.read_text()
    [entry] = json.loads((user_models.parent / "dataloop.json").read_text())["components"]["models"]
    assert entry["name"] == "tiny-llama-0-6b"
    assert creation.main(["--add", "own/Tiny-Llama-0.6B"]) == 2
    assert "tiny_llama_0_6b.py is there already" in capsys.readouterr().err


@pytest.mark.parametrize("hub_id", ["no-owner", "own/nothing-here"])
def test_creation_adds_nothing_that_is_not_there(tests, user_models, capsys, hub_id: str):
    assert creation.main(["--add", hub_id]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert hub_id in line
    assert list(user_models.iterdir()) == []
