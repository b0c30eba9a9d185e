"""The script behind the figures of docs/confidence.md runs, on fewer questions."""

import json
import runpy
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "tiny_talk"


@pytest.mark.slow
def test_the_confidence_finds_the_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(
        sys, "argv", ["confidence.py", "--questions", "160", "--splits", "4", "--pictures", str(tmp_path)]
    )
    try:
        runpy.run_path(str(FOLDER / "confidence.py"), run_name="__main__")
    finally:
        for name in ("dialogues", "phrases"):
            sys.modules.pop(name, None)
    found = json.loads(capsys.readouterr().out)
    assert found["questions"] == 160
    best = max(found["auroc"].values(), key=lambda one: one["value"])
    assert best["value"] > 0.85
    assert best["value"] > found["auroc"]["top_k_mass"]["value"] + 0.05
    assert {path.name for path in tmp_path.iterdir()} == {
        "confidence_reliability.png",
        "confidence_risk_coverage.png",
    }
