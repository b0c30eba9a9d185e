"""One contract for every file in models/, run on a tiny random model of the same architecture."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import transformers

import models
from adapters import registry
from adapters.hugging import HuggingAdapter
from adapters.platform import manifest
from engine.errors import ConfigurationError, Unsupported
from engine.types import Message
from tests import tiny
from tests.helpers import classifiers, sentences
from tests.helpers.docs import documented

ARCHITECTURES = {
    "auto_causal_lm": "qwen3",
    "dialogpt_large": "gpt2",
    "flan_t5_base": "t5",
    "gemma_3_1b_it": "gemma3",
    "gpt2": "gpt2",
    "meta_llama_3_8b_instruct": "llama",
    "mistral_7b_instruct_v0_3": "mistral",
    "open_llama_3b": "llama",
    "phi_3_5_mini_instruct": "phi3",
    "qwen3_0_6b": "qwen3",
    "smollm2_135m_instruct": "llama",
    "smollm2_1_7b_instruct": "llama",
    "t0pp": "t5",
    "tiny_talk": "llama",
}
# Vectors of a sentence-transformers folder, pooled like this.
POOLINGS = {"all_minilm_l6_v2": "mean", "bge_small_en_v1_5": "cls"}
# Rerankers, reward models and classifiers, and their architectures.
CLASSIFIERS = {}
REMOTE = {"inference_endpoint"}
# A file that none of these names is a user's own: nothing is checked of it but that it can be imported.
SHIPPED = [*ARCHITECTURES, *POOLINGS, *CLASSIFIERS, *REMOTE]
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder with a tiny model for each architecture that is named above."""
    folder = tmp_path_factory.mktemp("weights")
    with pytest.MonkeyPatch.context() as patch:
        gemma3 = transformers.Gemma3TextConfig(
            **TINY, head_dim=8, sliding_window=16, max_position_embeddings=512
        )
        patch.setitem(tiny.CONFIGS, "gemma3", lambda: gemma3)
        templates = {"t5": None}  # Such a model has none.
        return {
            name: tiny.save(folder / name, name, templates.get(name, tiny.CHAT_TEMPLATE))
            for name in sorted(set(ARCHITECTURES.values()))
        }


@pytest.fixture
def embedder(tmp_path: Path, in_hub_cache: Callable[[str, Path], None]) -> Callable[[str], HuggingAdapter]:
    """Loads an embedding model by its hub id: a tiny one with as many numbers in a vector."""

    def load(name: str) -> HuggingAdapter:
        adapter = models.find(name)()
        folder = sentences.save(tmp_path / name, adapter.defaults["embeddings_size"], POOLINGS[name])
        in_hub_cache(adapter.model_name, folder)
        return adapter.load()

    return load


def test_every_shipped_model_is_in_the_manifest_and_in_the_docs():
    entries = json.loads((registry.FOLDER.parent / "dataloop.json").read_text(encoding="utf-8"))["components"]
    listed = {one["configuration"]["module_name"].removeprefix("models.") for one in entries["models"]}
    assert {*SHIPPED} <= {*models.names()}, "a table of this file names a model that models/ does not have"
    assert {*SHIPPED} <= listed & documented(), "run: make docs"


@pytest.mark.parametrize("name", sorted({*models.names()} - {*SHIPPED}))
def test_a_users_own_file_can_be_imported(name: str):
    models.find(name)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_model_file_is_short_and_says_what_it_is(name: str):
    source = (registry.FOLDER / f"{name}.py").read_text(encoding="utf-8")
    assert source.startswith('"""')
    assert len(source.splitlines()) <= 15


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_file_loads_and_predicts(
    name: str, weights: dict[str, Path], questions: dict, messages: dict, in_hub_cache: Callable
):
    configuration = {"max_new_tokens": 8}
    hub_id = models.find(name).model_name
    if hub_id is None:
        configuration["model_name"] = str(weights[ARCHITECTURES[name]])
    elif not Path(hub_id).exists():
        in_hub_cache(hub_id, weights[ARCHITECTURES[name]])
    adapter = models.find(name)(configuration)
    assert isinstance(adapter, HuggingAdapter)
    adapter.load()
    answers = adapter.predict([questions, messages])
    keys = [[answer["metadata"]["system"]["promptId"] for answer in item] for item in answers]
    assert keys == [["first", "first", "second"], ["1", "2"]]
    for answer in (answer for item in answers for answer in item):
        model = answer["metadata"]["user"]["model"]
        provenance = answer["metadata"]["user"]["provenance"]
        assert answer == {
            "type": "text",
            "label": "q",
            "coordinates": answer["coordinates"],
            "metadata": {
                "system": {"promptId": answer["metadata"]["system"]["promptId"]},
                "user": {"annotation_type": "prediction", "model": model, "provenance": provenance},
            },
        }
        assert isinstance(answer["coordinates"], str)
        assert model["name"] == name
        assert 0 <= model["confidence"] <= 1
        assert provenance["confidence"]["value"] == model["confidence"]
    assert json.loads(json.dumps(answers)) == answers


@pytest.mark.parametrize("name", POOLINGS)
def test_an_embedding_model_makes_the_vectors_that_it_says(name: str, embedder: Callable):
    adapter = embedder(name)
    vectors = adapter.engine.embed(["A cat.", "Grüß Gott"], adapter.configuration.embedding, "document")
    assert vectors.shape == (2, adapter.defaults["embeddings_size"])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_scores_a_pair(name: str, tmp_path: Path, in_hub_cache: Callable[[str, Path], None]):
    adapter = models.find(name)()
    in_hub_cache(adapter.model_name, classifiers.save(tmp_path, CLASSIFIERS[name], 1))
    assert adapter.load().score("A question", ["An answer"]).shape == (1,)


@pytest.mark.parametrize("name", POOLINGS)
def test_an_embedding_model_says_that_it_cannot_answer(name: str, embedder: Callable, questions: dict):
    with pytest.raises(Unsupported, match="BertModel writes no text: it can only embed"):
        embedder(name).predict([questions])


def test_bge_reads_its_instruction_before_a_query_alone(embedder: Callable):
    adapter = embedder("bge_small_en_v1_5")
    embed, options = adapter.engine.embed, adapter.configuration.embedding
    instructed = "Represent this sentence for searching relevant passages: A cat."
    [query], [document] = embed(["A cat."], options, "query"), embed(["A cat."], options, "document")
    plain, with_it = embed(["A cat.", instructed], options)
    np.testing.assert_allclose([query, document], [with_it, plain], atol=1e-6)
    assert np.abs(query - document).max() > 0.01


def test_the_model_shipped_here_has_vectors_of_the_size_that_its_file_says():
    adapter = models.load("tiny_talk")
    assert adapter.engine.embed(["A cat."]).shape == (1, adapter.defaults["embeddings_size"])


@pytest.mark.parametrize("name", ["flan_t5_base", "t0pp"])
def test_an_encoder_decoder_is_asked_the_bare_question(name: str, weights: dict[str, Path]):
    adapter = models.find(name)().load(weights["t5"])
    question = [Message("user", ("Is it so?",))]
    asked = adapter.engine.prompter.render(question, adapter.configuration.generation)
    assert asked == "Is it so?"


def test_qwen3_is_asked_for_an_answer_without_thoughts(weights: dict[str, Path]):
    adapter = models.find("qwen3_0_6b")({"system_prompt": "Be brief."}).load(weights["qwen3"])
    said = [Message("user", ("Hi",)), Message("assistant", ("Hello!",)), Message("user", ("Who are you?",))]
    assert adapter.engine.prompter.render(said, adapter.configuration.generation) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nWho are you?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


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
    [again], [answers] = (one.predict([questions]) for one in (saved, adapter))
    assert [one["coordinates"] for one in again] == [one["coordinates"] for one in answers]


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
    monkeypatch.setattr(registry, "FOLDER", tmp_path)
    with pytest.raises(ConfigurationError, match=r"empty\.py has no class HuggingAdapter"):
        models.find("empty")


def test_a_class_without_predict_says_what_to_add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "mute.py").write_text("class HuggingAdapter:\n    pass\n")
    monkeypatch.setattr(registry, "FOLDER", tmp_path)
    with pytest.raises(ConfigurationError, match=r"mute\.py: .* predict\(batch, \*\*kwargs\): add it"):
        models.find("mute")


@pytest.mark.parametrize("name", ["dialogpt-large", "dialogpt_large", "DialoGPT_Large"])
def test_two_files_of_one_name_are_refused_by_both_names(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for stem in ("dialogpt-large", "dialogpt_large"):
        (tmp_path / f"{stem}.py").touch()
    monkeypatch.setattr(registry, "FOLDER", tmp_path)
    both = r"models/dialogpt-large\.py and models/dialogpt_large\.py are one name"
    for ask in (models.find, manifest.build):
        with pytest.raises(ConfigurationError, match=both):
            ask([name] if ask is manifest.build else name)


def test_a_wrong_option_is_named_with_the_nearest(weights: dict[str, Path]):
    with pytest.raises(ConfigurationError, match="'temprature': did you mean 'temperature'"):
        models.find("tiny_talk")({"temprature": 0.5})
