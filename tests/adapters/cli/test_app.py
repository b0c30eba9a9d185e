"""Help comes at once, and wrong usage is one sentence that says what is right."""

import contextlib
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from adapters.cli import app, main

ROOT = Path(__file__).parents[3]
COMMANDS = [name for name in app.COMMANDS if (ROOT / "adapters" / "cli" / f"{name}.py").exists()]


def test_the_help_lists_every_command_with_what_it_does(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out.partition("Commands:")[2].splitlines()
    assert [line.split()[0] for line in listed if line.startswith("  ") and line[2] != " "] == COMMANDS
    assert all(len(line.split()) > 2 for line in listed if line.strip())
    assert not [line for line in listed if line.endswith("...")], "a summary is longer than its line"


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command: str, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with contextlib.suppress(SystemExit):  # Of the parser that `publish` has of its own.
        assert main([command, "--help"]) == 0
    assert f"python -m adapters {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "Missing command."),
        (["predcit"], "No such command 'predcit'. Did you mean 'predict'?"),
        (["predict"], "Missing argument 'FILE...'."),
        (["predict", "a.json", "--modle", "x"], "No such option: --modle"),
        (["predict", "a.json", "--json", "--jsonl"], "--json and --jsonl exclude each other"),
        (["predict", "a.json", "--model", "tiny_tlak"], "did you mean 'tiny_talk'?"),
    ],
)
def test_wrong_usage_is_a_sentence(arguments: list[str], told: str, capsys):
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert told in printed.err
    assert len(printed.err.splitlines()) == 1


def test_a_misspelt_model_is_told_without_importing_any():
    code = (
        "import sys\n"
        "from adapters.cli import main\n"
        "assert main(['predict', 'a.json', '--model', 'tiny_tlak']) == 2\n"
        "assert not [name for name in sys.modules if name.startswith('models.')]\n"
        "assert not {'torch', 'transformers', 'dtlpy', 'numpy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_the_versions_are_told(capsys):
    assert main(["--version"]) == 0
    assert "huggingface-adapter 0.1.0, torch 2" in capsys.readouterr().out


def test_debug_logs_everything_for_this_call_alone(capsys):
    before = logging.getLogger("engine").getEffectiveLevel()
    assert main(["--debug", "predict", "a.json", "--model", "tiny_tlak"]) == 2
    assert "Traceback" in capsys.readouterr().err
    assert logging.getLogger("engine").getEffectiveLevel() == before


def test_a_missing_package_is_told_with_what_to_install():
    code = (
        "import sys; sys.modules['typer'] = None\nfrom adapters.cli import main\nsys.exit(main(['models']))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == ("error: the command line needs the package typer: run `pip install typer rich`\n")


BROKEN = """
def helper():
    raise RuntimeError("no such file of mine")

class HuggingAdapter:
    def __init__(self, configuration): helper()

    def predict(self, batch):
        return []
"""


@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_what_a_users_file_raises_is_told_with_its_line_and_whole_with_debug(
    debug, user_models, tmp_path, capsys
):
    (user_models / "broken.py").write_text(BROKEN)
    (tmp_path / "a.txt").write_text("Hello")
    assert main([*debug, "predict", str(tmp_path / "a.txt"), "--model", "broken"]) == 2
    told = capsys.readouterr().err
    last = told.splitlines()[-1]
    assert last == (
        "error: models/broken.py cannot be made: "
        "RuntimeError: no such file of mine (models/broken.py, line 3)"
    )
    assert ("Traceback" in told and "in helper" in told) is bool(debug)
