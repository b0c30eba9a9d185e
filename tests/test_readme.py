"""The README is true: its commands run, its code runs, its tables and its tree are complete."""

import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

import models
from adapters import registry
from engine.configuration import KINDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CHECKED_ELSEWHERE = {
    "make test": "it is what runs here",
    "make lint": "CI runs it before the tests",
    "make bench": "takes minutes; test_benchmarks.py runs its parts",
    "python -m benchmarks adapter --quick": "test_benchmarks.py runs it, with fewer items",
    "python -m adapters predict examples/items/capitals.json": "test_imports.py runs it, without dtlpy",
    "python -m tests.gateway": "runs until Ctrl-C; test_gateway_dials.py plays that",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


FOLDERS = [
    *("engine", "engine/backends", "engine/scoring", "engine/embedding", "adapters", "tests/gateway"),
    *("benchmarks", "docs"),
]
# In this process, which has imported what takes seconds.
HERE = "python -m adapters predict examples/items/*.json --model tiny_talk"
COMMANDS = [
    line
    for block in blocks("bash")
    for line in block.splitlines()
    if line not in CHECKED_ELSEWHERE and not line.startswith(HERE)
]


def test_every_command_that_is_checked_elsewhere_is_in_the_readme():
    listed = {line for block in blocks("bash") for line in block.splitlines()}
    assert set(CHECKED_ELSEWHERE) <= listed


def test_the_command_that_answers_all_items_runs(monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path):
    (command,) = [line for block in blocks("bash") for line in block.splitlines() if line.startswith(HERE)]
    words = spread(shlex.split(command.removeprefix("python -m ")))
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("adapters", run_name="__main__")
    assert ended.value.code == 0
    assert all(json.loads(capsys.readouterr().out))
    assert list(tmp_path.iterdir()) == [], "the user's home is left alone"


def spread(words: list[str]) -> list[str]:
    """A command's words as a shell has them: patterns are files."""
    files = [str(path.relative_to(ROOT)) for word in words if "*" in word for path in sorted(ROOT.glob(word))]
    place = next((i for i, word in enumerate(words) if "*" in word), 0)
    return words[:place] + files + [word for word in words[place:] if "*" not in word]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_run(command: str, gateway, project, tmp_path: Path):
    words = shlex.split(command.replace("My project", project.name))
    if words[0] == "make":  # In the environment that runs the tests, set up already.
        ready = tmp_path / "ready"
        ready.touch()
        words += [f"BIN={Path(sys.executable).parent}", f"READY={ready}"]
    else:
        words[0] = sys.executable
    home = tmp_path / "home"
    home.mkdir()
    environment = os.environ | gateway.environment(tmp_path / "dataloop") | {"HOME": str(home)}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert list(home.iterdir()) == [], "the user's home is left alone"
    if command == "make demo":
        (shown,) = [block for block in blocks("text") if "│ item" in block]
        assert answers_in(done.stdout) == answers_in(shown)
    else:
        assert done.stdout


def answers_in(output: str) -> list[list[str]]:
    """The table's cells but for the confidence, whose last digit depends on the machine."""
    return [line.split("│")[1:-2] for line in output.splitlines() if line.startswith("│")]


def test_the_python_example_answers(capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    (example,) = [block for block in blocks("python") if "model.predict" in block]
    exec(example, {})
    assert "Your name is Ada." in capsys.readouterr().out


def test_the_example_of_the_engine_streams_scores_and_embeds(capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    (example,) = [block for block in blocks("python") if "engine.stream" in block]
    exec(example, names := {})
    answer, probability = re.match(r"(.*?)Tokyo \S+ (\S+)\n", capsys.readouterr().out).groups()
    assert answer == "The capital of Japan is Tokyo."
    assert float(probability) == max(score.probability for score in names["scores"].candidates) > 0.9


def test_the_model_file_is_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path, questions
):
    (file,) = [block for block in blocks("python") if "class HuggingAdapter" in block]
    (tmp_path / "smollm2_360m_instruct.py").write_text(file)
    monkeypatch.setattr(registry, "FOLDER", tmp_path)
    adapter = models.find("smollm2_360m_instruct")({"max_new_tokens": 4})
    assert adapter.configuration.load.model_name == "HuggingFaceTB/SmolLM2-360M-Instruct"
    assert len(adapter.load(tiny_model).predict([questions])[0]) == 3


@pytest.mark.parametrize("name", models.names())
def test_the_model_table_has_every_model(name: str):
    weights = models.find(name).model_name
    shown = {
        "tiny_talk": "in this repository",
        "auto_causal_lm": "`model_name` in the configuration",
        "inference_endpoint": "at the server that the configuration names",
    }
    assert f"| `{name}` | {shown.get(name, weights)} |" in README


@pytest.mark.parametrize("kind", KINDS)
def test_the_option_table_has_every_option(kind):
    for name, field in kind.model_fields.items():
        default = "" if field.default in (None, PydanticUndefined, ()) else f"`{field.default}`"
        assert f"| `{name}` | {default} | {field.description} |" in README


def test_the_calls_from_python_answer(capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    (example,) = [block for block in blocks("python") if "model.chat" in block]
    exec(example, {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("The capital of Japan is Tokyo. ")
    assert "'The capital of Japan is Tokyo.'" in lines[-2]
    assert lines[-1] == "(2, 128)"


def test_what_it_can_do_is_run_by_the_tests_it_names():
    table = README.split("## What it can do")[1].split("\n## ")[0]
    links = re.findall(r"\[(test_\w+)\]\((tests/\S+\.py)\)", table)
    assert len(links) == len(re.findall(r"^\| ", table, re.MULTILINE)) - 1
    for name, file in links:
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), (name, file)


def test_the_tree_has_every_file_of_the_package():
    tree = README.split("## What is where")[1].split("```")[1]
    for folder in FOLDERS:
        for path in (ROOT / folder).iterdir():
            if path.suffix in (".py", ".md") and not path.name.startswith("__"):
                assert re.search(rf"^\s*{re.escape(path.name)}\s+\S", tree, re.MULTILINE), path


def test_make_says_which_python_is_needed(tmp_path: Path):
    old = tmp_path / "python-old"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("constraints.txt", "requirements.txt", "requirements-dev.txt"):
        (tmp_path / name).touch()
    done = subprocess.run(
        ["make", "demo", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "Python 3.11 to 3.13 is needed: make demo PYTHON=" in done.stderr
