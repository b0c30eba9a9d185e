"""The folders of sentence-transformers' CrossEncoder give what `CrossEncoder.predict` gives."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.modules.logit_score import LogitScore

from engine.backends.classifier import ClassifierEngine
from engine.errors import Unsupported
from engine.loading import load
from engine.options import LoadOptions
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
    kind = f"{LogitScore.__module__}.{LogitScore.__name__}"
    (folder / "modules.json").write_text(json.dumps([*modules, {"name": "1", "path": "1", "type": kind}]))
    with pytest.raises(Unsupported, match=r"cannot classify: its module .*LogitScore"):
        engine(folder)
