"""docs/confidence.md is true: its blocks on methods run, and its table has every method."""

import re
import shlex
from pathlib import Path

from adapters.cli import main
from engine.confidence import METHODS, ONE_PASS
from engine.options import GenerationOptions

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "confidence.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", PAGE.partition("## Evaluation")[0], re.DOTALL)
    return found


def test_the_python_example_prints_every_method_of_one_pass(capsys):
    exec(block("python"), {})
    printed = capsys.readouterr().out
    assert printed.startswith("2 + 6 = ")
    assert all(f"'{method}': 0." in printed for method in ONE_PASS)


def test_the_command_answers_with_its_labels(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(shlex.split(block("bash"))[3:]) == 0
    assert "The capital of Japan is Tokyo. │ 1.000" in capsys.readouterr().out


def test_the_table_has_every_method():
    table = PAGE.partition("## Methods")[2].partition("## Label mode")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(METHODS)
    assert f"`{GenerationOptions().confidence}`, the probability" in PAGE
