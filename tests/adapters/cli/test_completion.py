"""A shell completes commands, options and models."""

import subprocess
import sys
from pathlib import Path

import pytest

from adapters.cli import main

ROOT = Path(__file__).parents[3]
ASK = """
source <("$1" -m adapters completion bash)
COMP_WORDS=($2); COMP_CWORD=$3
_adapters
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "place", "completed"),
    [
        ("adapters pre", 1, "predict"),
        ("adapters predict --js", 2, "--json"),
        ("adapters chat --model tiny", 3, "tiny_talk"),
    ],
)
def test_bash_completes(words: str, place: int, completed: str):
    done = subprocess.run(
        ["bash", "-c", ASK, "bash", sys.executable, words, str(place)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert completed in done.stdout.split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_names_this_python_and_this_folder(shell: str, capsys):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert f"PYTHONPATH={ROOT}" in script
    assert sys.executable in script
    assert f"_ADAPTERS_COMPLETE=complete_{shell}" in script


def test_another_shell_is_refused_with_those_that_can(capsys):
    assert main(["completion", "tcsh"]) == 2
    assert "'bash', 'zsh', 'fish'" in capsys.readouterr().err
