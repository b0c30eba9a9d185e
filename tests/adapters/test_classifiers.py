"""Rerankers, reward models and classifiers by every way in: Python, HTTP, the command line, prompt items."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import models
from adapters.cli import main
from adapters.hugging import HuggingAdapter
from engine.errors import PromptError, Unsupported
from tests import tiny
from tests.helpers import classifiers
from tests.helpers.classifiers import LABELS
from tests.helpers.servers.ours import serving

QUERY, DOCUMENTS = "Where is the cat?", ["On the mat.", "Ask the dog.", ""]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A reranker, a classifier of three labels, and a reward model that reads conversations."""
    root = tmp_path_factory.mktemp("classifiers")
    return {
        "reranker": classifiers.save(root / "reranker", "bert", 1),
        "classifier": classifiers.save(root / "classifier", "roberta", 3),
        "reward": classifiers.save(root / "reward", "qwen3", 1, chat_template=tiny.CHAT_TEMPLATE),
    }


@pytest.fixture(scope="module")
def loaded(folders: dict[str, Path]) -> dict[str, HuggingAdapter]:
    return {name: models.load("auto_causal_lm", {"model_name": str(path)}) for name, path in folders.items()}


@pytest.fixture(scope="module")
def expected(loaded: dict[str, HuggingAdapter]) -> np.ndarray:
    """The score of each document."""
    found = loaded["reranker"].classify([(QUERY, text) for text in DOCUMENTS])
    return np.array([torch.tensor(one.logits).sigmoid().item() for one in found], np.float32)


def test_a_reranker_scores_and_ranks_documents(loaded, expected):
    model = loaded["reranker"]
    np.testing.assert_allclose(model.score(QUERY, DOCUMENTS), expected, atol=1e-6)
    one, other = model.score([QUERY, "Who?"], DOCUMENTS)
    np.testing.assert_allclose(one, expected, atol=1e-6)
    assert other.shape == (3,)
    ranked = model.rank(QUERY, DOCUMENTS)
    assert [text for text, _ in ranked] == [DOCUMENTS[i] for i in np.argsort(-expected)]
    assert ranked[0][1] == pytest.approx(expected.max(), abs=1e-6)
    assert model.score([QUERY, "Who?"]).shape == (2, 1)  # Without candidates: the logits of each text.


def test_a_reward_model_ranks_the_answers_to_a_conversation(loaded):
    model, chat = loaded["reward"], [{"role": "user", "content": QUERY}]
    answers = DOCUMENTS[:2]
    conversations = [[*chat, {"role": "assistant", "content": text}] for text in answers]
    [found] = model.score([chat], answers)
    logits = torch.tensor(model.score(conversations)[:, 0])
    np.testing.assert_allclose(found, logits.sigmoid().numpy(), atol=1e-6)
    assert {text for text, _ in model.rank(chat, answers)} == set(answers)


def test_a_classifier_gives_the_probability_of_each_label_and_ranks_nothing(loaded):
    model = loaded["classifier"]
    [found] = model.classify([(QUERY, "Yes.")])
    assert list(found.labels) == LABELS
    assert sum(found.labels.values()) == pytest.approx(1)
    assert model.score(QUERY, DOCUMENTS).shape == (3, 3)
    with pytest.raises(Unsupported, match="has 3 labels, and no order of texts: ask score or classify"):
        model.rank(QUERY, DOCUMENTS)


def test_a_text_that_cannot_be_read_is_named(loaded):
    with pytest.raises(PromptError, match=r"text 1: the text is empty"):
        loaded["reward"].score(["a", ""])


def test_its_answers_to_prompt_items_are_labels(loaded, questions):
    [answers] = loaded["classifier"].predict([questions])
    assert {one["type"] for one in answers} == {"class"}
    for one in answers:
        user = one["metadata"]["user"]
        assert user["labels"][one["label"]] == pytest.approx(user["model"]["confidence"], abs=1e-4)


def test_a_server_scores_and_ranks_by_it(loaded, expected):
    with serving(loaded["reranker"]) as server:
        scored = server.post("/v1/score", {"prompt": QUERY, "candidates": DOCUMENTS}).body["data"]
        asked = {"query": QUERY, "documents": DOCUMENTS, "top_n": 2}
        ranked = server.post("/v1/rerank", asked).body["results"]
        refused = [
            server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
            server.post("/v1/embeddings", {"input": "Hi"}),
            server.post("/v1/score", {"prompt": QUERY, "candidates": ["a"], "temprature": 1}),
        ]
    np.testing.assert_allclose([one["score"] for one in scored], expected, atol=1e-6)
    assert set(scored[0]) == {"object", "index", "score", "tokens"}
    assert [one["index"] for one in ranked] == np.argsort(-expected)[:2].tolist()
    assert ranked[0]["relevance_score"] == pytest.approx(expected.max(), abs=1e-6)
    assert [reply.status for reply in refused] == [400] * 3
    says = ["ask score or rank", "has a classification head", "unknown option"]
    for reply, words in zip(refused, says, strict=True):
        assert words in reply.error["message"]


def test_a_server_labels_pairs_and_conversations(loaded):
    with serving(loaded["classifier"]) as server:
        [scored] = server.post("/v1/score", {"prompt": QUERY, "candidates": ["Yes."]}).body["data"]
        reply = server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]})
    assert list(scored["labels"]) == LABELS
    assert reply.body["choices"][0]["message"]["content"] in LABELS


def test_the_command_line_scores_by_it(folders, expected, capsys):
    assert main(["score", "--model", str(folders["reranker"]), QUERY, *DOCUMENTS[:2], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [one["score"] for one in found] == pytest.approx(sorted(expected[:2], reverse=True), abs=1e-6)
    assert main(["score", "--model", str(folders["classifier"]), QUERY, "Yes.", "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)
    assert list(found) == ["candidate", *LABELS]
