"""The folders of sentence-transformers' CrossEncoder give what `CrossEncoder.predict` gives."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.base.modules.transformer import Transformer
from sentence_transformers.cross_encoder.modules.logit_score import LogitScore

import models
from engine.backends.classifier import ClassifierEngine
from engine.errors import PromptError, Unsupported
from engine.loading import load
from engine.options import LoadOptions
from tests import tiny
from tests.helpers import classifiers

PAIRS = [pair for pair in classifiers.TEXTS if isinstance(pair, tuple)]


def engine(folder: Path) -> ClassifierEngine:
    return ClassifierEngine(load(LoadOptions(model_name=str(folder), device="cpu")))


def scores(folder: Path) -> np.ndarray:
    found = engine(folder).classify(PAIRS)
    return np.array([one.scores for one in found], np.float32)


def predicted(folder: Path) -> np.ndarray:
    return CrossEncoder(str(folder), device="cpu").predict(PAIRS).reshape(len(PAIRS), -1)


def rewrite(file: Path, **values) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    ("architecture", "labels"),
    [("bert", 1), ("roberta", 1), ("deberta", 1), ("modernbert", 1), ("qwen3", 1), ("roberta", 3)],
)
def test_a_plain_folder_gives_what_predict_gives(tmp_path: Path, architecture: str, labels: int):
    classifiers.save(tmp_path, architecture, labels)
    np.testing.assert_allclose(scores(tmp_path), predicted(tmp_path), rtol=0, atol=1e-5)


@pytest.mark.parametrize("activation", [torch.nn.Identity, torch.nn.Tanh, torch.nn.Sigmoid])
def test_a_saved_activation_a_length_and_a_prompt_apply_and_are_saved(tmp_path: Path, activation: type):
    plain = classifiers.save(tmp_path / "plain", "bert", 1)
    encoder = CrossEncoder(
        str(plain),
        device="cpu",
        activation_fn=activation(),
        max_length=40,
        prompts={"query": "Q: "},
        default_prompt_name="query",
    )
    folder = tmp_path / "saved"
    encoder.save_pretrained(str(folder))
    np.testing.assert_allclose(scores(folder), predicted(folder), rtol=0, atol=1e-5)
    engine(folder).save(tmp_path / "again")
    np.testing.assert_allclose(scores(tmp_path / "again"), predicted(folder), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
        {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh"}},
    ],
)
def test_the_activation_of_an_older_folder_applies(tmp_path: Path, settings: dict):
    classifiers.save(tmp_path, "bert", 1)
    rewrite(tmp_path / "config.json", **settings)
    np.testing.assert_allclose(scores(tmp_path), predicted(tmp_path), rtol=0, atol=1e-5)


def test_an_activation_of_other_code_is_refused(tmp_path: Path):
    classifiers.save(tmp_path, "bert", 1)
    rewrite(tmp_path / "config.json", sentence_transformers={"activation_fn": "os.system"})
    with pytest.raises(Unsupported, match=r"activation_fn 'os\.system' is no class of torch\.nn"):
        engine(tmp_path)


def test_a_module_that_is_not_the_model_is_refused(tmp_path: Path):
    plain = classifiers.save(tmp_path / "plain", "bert", 1)
    encoder = CrossEncoder(str(plain), device="cpu")
    folder = tmp_path / "saved"
    encoder.save_pretrained(str(folder))
    modules = json.loads((folder / "modules.json").read_text())
    kind = "sentence_transformers.base.modules.dense.Dense"
    (folder / "modules.json").write_text(json.dumps([*modules, {"name": "1", "path": "1", "type": kind}]))
    with pytest.raises(Unsupported, match=r"cannot classify: its module .*Dense"):
        engine(folder)


QUERY = "(messages | selectattr('role', 'eq', 'query') | first).content"
DOCUMENT = "(messages | selectattr('role', 'eq', 'document') | first).content"
FLAT = (
    "<s>{% for m in messages if m.role == 'system' %}[I]{{ m.content }}{% endfor %}[Q]{{ " + QUERY + " }}"
    "[D]{{ " + DOCUMENT + " }}</s>{% if add_generation_prompt %}[assistant]{% endif %}"
)
IN_PARTS = "<s>[Q]{{ " + QUERY + "[0].text }}[D]{{ " + DOCUMENT + "[0].text }}</s>[A]"


def logit_folder(folder: Path, template: str | None = FLAT, no: int | None = 80, **kwargs) -> Path:
    """A CrossEncoder's folder: a causal language model whose logits of two tokens are the score."""
    plain = tiny.save(folder / "plain", kwargs.pop("architecture", "qwen3"), template)
    settings = {key: kwargs.pop(key) for key in ("processing_kwargs", "processor_kwargs") if key in kwargs}
    model = Transformer(str(plain), transformer_task="text-generation", **settings)
    CrossEncoder(modules=[model, LogitScore(90, no)], device="cpu", **kwargs).save_pretrained(
        str(folder / "saved")
    )
    return folder / "saved"


@pytest.mark.parametrize(
    "settings",
    [
        {"template": None, "prompts": {"web": "Rank: "}, "default_prompt_name": "web"},
        {
            "prompts": {"web": "Is it relevant?"},
            "default_prompt_name": "web",
            "processing_kwargs": {"chat_template": {"add_generation_prompt": True}},
        },
        {"template": IN_PARTS, "no": None, "activation_fn": torch.nn.Identity()},
        {"processor_kwargs": {"model_max_length": 64}},
    ],
    ids=str,
)
def test_the_logits_of_a_causal_models_yes_and_no_are_the_score(tmp_path: Path, settings: dict):
    folder = logit_folder(tmp_path, **settings)
    expected = np.array([CrossEncoder(str(folder), device="cpu").predict([pair]) for pair in PAIRS])
    np.testing.assert_allclose(scores(folder), expected, rtol=0, atol=1e-4)


def test_a_causal_reranker_ranks_and_writes_no_text(tmp_path: Path):
    model = models.load("auto_causal_lm", {"model_name": str(logit_folder(tmp_path))})
    documents = ["On the mat.", "x", "Here, and it will not move."]
    ranked = CrossEncoder(str(tmp_path / "saved"), device="cpu").rank("Where?", documents)
    assert [text for text, _ in model.rank("Where?", documents)] == [
        documents[one["corpus_id"]] for one in ranked
    ]
    assert repr(model).startswith("<auto_causal_lm: Qwen3ForCausalLM")
    asked = [{"role": "user", "content": "Where?"}]
    found = model.rank("Where?", documents)
    assert model.rank(asked, documents) == found
    model.save(tmp_path / "again")
    again = models.load("auto_causal_lm", {"model_name": str(tmp_path / "again")})
    assert again.rank("Where?", documents) == found
    with pytest.raises(Unsupported, match="writes no text: ask score or rank"):
        model.generate("Where?", raise_errors=True)
    with pytest.raises(PromptError, match="reads pairs"):
        model.score(["Where?"])


def test_a_document_that_spells_a_control_token_is_read_as_text(tmp_path: Path):
    model = engine(logit_folder(tmp_path))
    plain, spelled = model.classify([("Where?", "Here."), ("Where?", "Here.</s>")])
    assert spelled.num_tokens == plain.num_tokens + len("</s>")


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("1_LogitScore/config.json", {"true_token_id": 999}, r"true_token_id 999 .*vocabulary"),
        ("1_LogitScore/config.json", {"module_input_name": "logits"}, "module_input_name 'logits'"),
        (
            "sentence_bert_config.json",
            {"processing_kwargs": {"text": {"max_length": 9}}},
            "processing_kwargs",
        ),
        ("sentence_bert_config.json", {"transformer_task": "any-to-any"}, "transformer_task 'any-to-any'"),
        ("sentence_bert_config.json", {"processing_kwargs": {"chat_template": {"padding": 1}}}, "padding"),
    ],
)
def test_what_a_causal_reranker_cannot_follow_is_refused(
    tmp_path: Path, file: str, values: dict, message: str
):
    folder = logit_folder(tmp_path)
    rewrite(folder / file, **values)
    with pytest.raises(Unsupported, match=message):
        engine(folder)


def test_a_template_that_leaves_out_the_document_is_refused(tmp_path: Path):
    with pytest.raises(Unsupported, match="leaves out"):
        engine(logit_folder(tmp_path, "<s>{{ " + QUERY + " }}"))
