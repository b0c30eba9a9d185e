"""The scripts behind the figures of docs/confidence.md run, on fewer questions."""

import json
import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "tiny_talk"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys):
    """Runs a script with arguments; returns the JSON that it prints."""

    def running(name: str, *arguments: str) -> dict:
        monkeypatch.syspath_prepend(str(FOLDER))
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        try:
            runpy.run_path(str(FOLDER / name), run_name="__main__")
        finally:
            for module in ("dialogues", "phrases"):
                sys.modules.pop(module, None)
        return json.loads(capsys.readouterr().out)

    return running


@pytest.mark.slow
def test_the_confidence_finds_the_mistakes(run, tmp_path: Path):
    found = run("confidence.py", "--questions", "160", "--splits", "4", "--pictures", str(tmp_path))
    assert found["questions"] == 160
    best = max(found["auroc"].values(), key=lambda one: one["value"])
    assert best["value"] > 0.85
    assert best["value"] > found["auroc"]["top_k_mass"]["value"] + 0.05
    assert {path.name for path in tmp_path.iterdir()} == {
        "confidence_reliability.png",
        "confidence_risk_coverage.png",
    }


@pytest.mark.slow
def test_labels_are_chosen_at_least_as_well_as_they_are_generated(run):
    found = run("labels.py", "--questions", "20", "--rounds", "1")
    for task in found.values():
        assert task["accuracy_labels"] >= task["accuracy_generated"] - 0.05
    assert found["unseen name"]["accuracy_labels"] > found["unseen name"]["accuracy_generated"] + 0.2
