"""The script that measures the embedded model runs, as the model's card says, and writes that card."""

import runpy
import shutil
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "tiny_talk"
CARD = (FOLDER / "model" / "README.md").read_text(encoding="utf-8")


def test_the_card_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    assert "python examples/tiny_talk/evaluate.py" in CARD
    model = shutil.copytree(FOLDER / "model", tmp_path / "model")
    (model / "README.md").unlink()
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "--examples", "1", "--model", str(model)])
    try:
        runpy.run_path(str(FOLDER / "evaluate.py"), run_name="__main__")
    finally:
        for name in ("dialogues", "phrases"):
            sys.modules.pop(name, None)
    written = (model / "README.md").read_text(encoding="utf-8")
    text, skills = unmeasured(CARD)
    assert unmeasured(written) == (text, skills)
    assert [row.split(" | ")[0] for row in capsys.readouterr().out.splitlines()] == [
        f"| {skill}" for skill in skills
    ]


def unmeasured(card: str) -> tuple[list[str], list[str]]:
    """What of a card does not depend on how many examples were asked: its text, and the skills."""
    lines = [line for line in card.splitlines() if not line.startswith('It says "')]
    rows = [line for line in lines if line.startswith("| ")][1:]
    return [line for line in lines if line not in rows], [row.split(" | ")[0][2:] for row in rows]
