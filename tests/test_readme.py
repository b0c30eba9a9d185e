"""The README and the pages with code are true: their commands run, and their Python blocks answer."""

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

import creation
import models
from adapters import registry

ROOT = Path(__file__).parents[1]
README, PYTHON, PUBLISHING = (
    (ROOT / name).read_text(encoding="utf-8")
    for name in ("README.md", "docs/python.md", "docs/publishing.md")
)
CHECKED_ELSEWHERE = {
    "make check": "a part of what runs here",
    "make lint": "CI runs it before the tests",
    "make bench": "takes minutes; test_benchmarks.py runs its parts",
    "python -m adapters chat --page": "runs until Ctrl-C; tests/adapters/page/test_page.py runs it",
    "python -m adapters predict examples/items/capitals.json": "test_imports.py runs it, without dtlpy",
    "python -m tests.gateway": "runs until Ctrl-C; tests/gateway/test_dials.py plays that",
}


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


LISTED = {
    line
    for page in (README, PYTHON, PUBLISHING)
    for block in blocks("bash", page)
    for line in block.splitlines()
}
# In this process, which has imported what takes seconds.
HERE = "python -m adapters predict examples/items/*.json --model tiny_talk"
COMMANDS = sorted(line for line in LISTED - CHECKED_ELSEWHERE.keys() if not line.startswith(HERE))


def test_every_command_that_is_checked_elsewhere_is_in_the_readme():
    assert set(CHECKED_ELSEWHERE) <= LISTED


def test_the_command_that_answers_all_items_runs(monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path):
    (command,) = [line for line in LISTED if line.startswith(HERE)]
    words = spread(shlex.split(command.removeprefix("python -m ")))
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("adapters", run_name="__main__")
    assert ended.value.code == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document) == len(list(ROOT.glob("examples/items/*.json")))
    assert all(row["answer"] for item in document for row in item["answers"])
    assert list(tmp_path.iterdir()) == [], "the user's home is left alone"


def spread(words: list[str]) -> list[str]:
    """A command's words as a shell has them: patterns are files."""
    files = [str(path.relative_to(ROOT)) for word in words if "*" in word for path in sorted(ROOT.glob(word))]
    place = next((i for i, word in enumerate(words) if "*" in word), 0)
    return words[:place] + files + [word for word in words[place:] if "*" not in word]


@pytest.mark.slow
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
        head, *rows = answers_in(shown)
        answered = answers_in(done.stdout)
        assert len(rows) == 5
        assert head == answered[0]
        assert [row for row in answered if row in rows] == rows
    else:
        assert done.stdout


def answers_in(output: str) -> list[list[str]]:
    """The table's cells but for the confidence, whose last digit depends on the machine."""
    return [line.split("│")[1:-2] for line in output.splitlines() if line.startswith("│")]


@pytest.fixture
def printed(capsys, monkeypatch: pytest.MonkeyPatch):
    """Runs the Python block of a page that has some words; returns what it printed, and its names."""

    def run(page: str, words: str) -> tuple[str, dict]:
        (example,) = [block for block in blocks("python", page) if words in block]
        exec(example, names := {})
        return capsys.readouterr().out, names

    monkeypatch.chdir(ROOT)
    return run


def test_the_readme_s_python_example_answers(printed):
    assert printed(README, "model.chat")[0].splitlines()[-1] == "The capital of Japan is Tokyo."


def test_the_python_example_answers(printed):
    assert "Your name is Ada." in printed(PYTHON, "model.predict")[0]


def test_the_example_of_the_engine_streams_scores_and_embeds(printed):
    text, names = printed(PYTHON, "engine.stream")
    answer, probability = re.match(r"(.*?)Tokyo \S+ (\S+)\n", text).groups()
    assert answer == "The capital of Japan is Tokyo."
    assert float(probability) == max(score.probability for score in names["scores"].candidates) > 0.9


def test_the_calls_from_python_answer(printed):
    lines = printed(PYTHON, "model.chat")[0].splitlines()
    assert lines[0].startswith("The capital of Japan is Tokyo. ")
    assert "'The capital of Japan is Tokyo.'" in lines[-2]
    assert lines[-1] == "(2, 128)"


def test_a_failed_answer_says_why_and_is_raised_where_that_is_asked_for(printed):
    error, text, raised = printed(PYTHON, "raise_errors=True")[0].splitlines()
    assert error == raised != ""
    assert "context length" in error
    assert text.startswith(" is")


@pytest.mark.slow
def test_the_recipe_leads_from_the_app_to_annotations(printed, project, gateway):
    creation.package_creation(project)
    recipe = PUBLISHING.replace("My project", project.name)
    status, *answers = printed(recipe, "execution =")[0].splitlines()
    assert status.startswith("success")
    assert any(
        re.fullmatch(r"prompt1 The capital of Japan is Tokyo\. tiny-talk 0\.9\d+", one) for one in answers
    )


def test_every_python_block_is_run():
    assert [len(blocks("python", page)) for page in (README, PYTHON, PUBLISHING)] == [2, 4, 1]


def test_the_model_file_is_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: Path, questions
):
    (file,) = [block for block in blocks("python") if "class HuggingAdapter" in block]
    (tmp_path / "smollm2_360m_instruct.py").write_text(file)
    monkeypatch.setattr(registry, "FOLDER", tmp_path)
    adapter = models.find("smollm2_360m_instruct")({"max_new_tokens": 4})
    assert adapter.configuration.load.model_name == "HuggingFaceTB/SmolLM2-360M-Instruct"
    assert len(adapter.load(tiny_model).predict([questions])[0]) == 3


def test_the_readme_names_models_and_folders_that_exist():
    assert set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)) - {"module_name"} <= set(models.names())
    (folders,) = [block for block in blocks("text") if "models/" in block]
    inside = ""
    for indent, name in re.findall(r"^( *)(\w+)/ ", folders, re.MULTILINE):
        inside = inside if indent else name
        assert (ROOT / inside / name if indent else ROOT / name).is_dir(), name


def test_make_help_lists_every_target():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    [phony] = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert sorted(re.findall(r"^make ([\w-]+): \w", done.stdout, re.MULTILINE)) == sorted(phony.split())


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
