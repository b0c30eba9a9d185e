"""The page of the command line is true: its commands run."""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from adapters import registry
from adapters.cli import main

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")
COMMANDS = [
    line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the examples and a copy of the models."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    shutil.copytree(ROOT / "models", tmp_path / "models", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_run(command: str, here: Path, monkeypatch, capsys, request):
    given, _, piped = command.rpartition(" | ")
    words = shlex.split(piped)
    assert words[:3] == ["python", "-m", "adapters"]
    if words[3] == "doctor":  # With a platform to log in to.
        request.getfixturevalue("project")
    if words[3] == "new":  # Whose file is for the copy.
        monkeypatch.setattr(registry, "FOLDER", here / "models")
    said = (
        subprocess.run(["sh", "-c", given], capture_output=True, text=True, check=True).stdout
        if given
        else ""
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO(said))
    assert main(words[3:]) == 0
    if "--out" in words:
        text = (here / words[-1]).read_text()
        assert [json.loads(one) for one in (text.splitlines() if words[-1].endswith("l") else [text])]
    elif words[3] != "chat":
        assert capsys.readouterr().out


def test_the_json_on_the_page_is_what_is_printed(capsys, monkeypatch):
    [block] = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    [shown] = json.loads(block)
    monkeypatch.setattr(sys, "stdin", io.StringIO(shown["answers"][0]["question"] + "\n"))
    assert main(["predict", "-", "--json"]) == 0
    [printed] = json.loads(capsys.readouterr().out)
    for answer in (shown["answers"][0], printed["answers"][0]):
        answer["confidence"] = answer["confidence"] == pytest.approx(1, abs=0.01)
    assert printed == shown


def test_the_home_of_the_user_is_left_alone(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-m", "adapters", "models"],
        cwd=ROOT,
        env=os.environ | {"HOME": str(tmp_path)},
        capture_output=True,
        check=True,
    )
    assert done.stdout
    assert list(tmp_path.iterdir()) == []
