"""Several answers to a turn on the platform: stored by rank, replaced together, exported where corrected."""

import json
from pathlib import Path
from typing import Any

import pytest

from adapters.dataloop import ModelAdapter
from adapters.items.stored import rank_of
from adapters.platform.export import export_dataset
from engine.errors import ConfigurationError
from tests.adapters.conftest import answers_on

TURNS = {"1": "One", "2": "Two"}
ITEM = {
    "shebang": "dataloop",
    "metadata": {"dltype": "prompt"},
    "prompts": {key: [{"mimetype": "application/text", "value": text}] for key, text in TURNS.items()},
}


@pytest.fixture
def ranking(model_entity, tiny_model: Path) -> ModelAdapter:
    configuration = {
        "module_name": "auto_causal_lm",
        "model_name": str(tiny_model),
        "max_new_tokens": 4,
        "temperature": 1.5,
        "n": 3,
    }
    return ModelAdapter(model_entity=model_entity(configuration))


def by_key(item: Any) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {key: [] for key in TURNS}
    for one in answers_on(item):
        found[one["metadata"]["system"]["promptId"]].append(one)
    return found


def test_each_turn_has_n_answers_and_corrections_become_pairs(
    ranking, upload, dl, dataset, tiny_model: Path, tmp_path: Path
):
    item = upload("item.json", ITEM)
    ranking.predict_items([item])
    first = by_key(item)
    for answers in first.values():
        confidence = {rank_of(one): one["metadata"]["user"]["model"]["confidence"] for one in answers}
        assert sorted(confidence) == [1, 2, 3]
        assert confidence[1] >= confidence[2] >= confidence[3]
        provenance = answers[0]["metadata"]["user"]["provenance"]
        assert provenance["options"] == {"max_new_tokens": 4, "n": 3, "temperature": 1.5}
        assert provenance["seconds"] > 0
        assert provenance["model"] == tiny_model.name
    ranking.predict_items([item])
    second = by_key(item)
    assert [len(answers) for answers in second.values()] == [3, 3], "the last turn's are replaced together"
    people = dl.AnnotationCollection()
    people.add(dl.FreeText(text="right", label="q"), prompt_id="2")
    item.annotations.upload(annotations=people)
    out = tmp_path / "pairs.jsonl"
    export = export_dataset(dataset, out, "chosen_rejected")
    pairs = [json.loads(line) for line in out.read_text().splitlines()]
    best = next(one["coordinates"] for one in second["1"] if rank_of(one) == 1)
    assert [message["content"] for message in pairs[0]["prompt"]] == ["One", best, "Two"]
    assert {pair["chosen"][0]["content"] for pair in pairs} == {"right"}
    assert {pair["rejected"][0]["content"] for pair in pairs} == {one["coordinates"] for one in second["2"]}
    assert (export.items, export.corrected, export.failures) == (1, 1, [])


def test_an_unknown_form_is_refused(dataset, tmp_path: Path):
    with pytest.raises(ConfigurationError, match="form 'ppo' is unknown: take one of chosen_rejected, sft"):
        export_dataset(dataset, tmp_path / "out.jsonl", "ppo")
