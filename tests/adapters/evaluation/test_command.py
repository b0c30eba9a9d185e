"""`python -m adapters evaluate`, and what docs/confidence.md says of evaluation, in this process."""

import json
import random
import re
import shlex
import shutil
from pathlib import Path

import pytest

import models
from adapters.cli import main

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "confidence.md").read_text(encoding="utf-8").partition("## Evaluation")[2]


def test_the_command_of_the_page_writes_a_report(monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path):
    (command,) = re.findall(r"```bash\n(.*?)\n```", PAGE, re.DOTALL)
    words = shlex.split(command.removeprefix("python -m adapters "))
    monkeypatch.chdir(ROOT)
    words[words.index("--out") + 1] = str(tmp_path)
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "right: 14 of 15 answers (93.3%) by exact_match" in said
    assert "no threshold holds 5 % wrong with 95 % certainty: label" in said
    assert "15 answers are too few for a calibration: label at least 15 more" in said
    figures = json.loads((tmp_path / "report.json").read_text())
    assert [one["answer"] for one in figures["confident_mistakes"]] == ["2 + 6 = 7"]


def test_the_python_of_the_page_runs(monkeypatch: pytest.MonkeyPatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)\n```", PAGE, re.DOTALL)
    monkeypatch.chdir(ROOT)
    exec(code, {})
    assert capsys.readouterr().out.startswith("0.")


def test_the_way_from_labelled_items_to_accepted_answers_is_as_the_page_shows(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys
):
    _, evaluate, copy, _ = re.findall(r"```sh\n(.*?)\n```", PAGE, re.DOTALL)[0].splitlines()
    (code,) = re.findall(r"```py\n(.*?)\n```", PAGE, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(models.find("tiny_talk").model_name, "weights")
    prompts, rows, draw = {}, ["item,prompt,answer"], random.Random(0)
    for key in range(60):
        a, b = draw.randint(1, 30), draw.randint(1, 30)
        prompts[str(key)] = {"1": {"mimetype": "application/text", "value": f"How much is {a}+{b}?"}}
        rows.append(f"sums,{key},{a} + {b} = {a + b}")
    Path("sums.json").write_text(json.dumps({"prompts": prompts}))
    Path("TRUTH.csv").write_text("\n".join(rows))
    words = shlex.split(evaluate.replace("ITEMS", "sums.json").replace("0.05", "0.5"))[3:]
    assert main(words) == 0
    _, source, target = shlex.split(copy)
    shutil.copy(source, target)
    names = {"models": models, "item": {"prompts": {"a": prompts["0"]}}}
    exec(code.replace("0.05", "0.5"), names)
    assert names["answer"]["metadata"]["user"]["accept"] in (True, False)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--truth", "nobody.csv"], "nobody.csv cannot be read"),
        (["--measure", "vibes"], "there is no measure 'vibes': take one of exact_match"),
        (["--max-error", "5"], "max_error 5 is not an error rate: give one between 0 and 1"),
        ([], "the right answer to none of 16 prompts is known: have people annotate them"),
        (["--truth", "{other}"], "no row of .* has the item's file name and the prompt's key"),
    ],
)
def test_what_is_wrong_is_one_sentence(words: list[str], reason: str, capsys, tmp_path: Path):
    (tmp_path / "other.csv").write_text("item,prompt,answer\nnobody,1,yes\n")
    words = [word.format(other=tmp_path / "other.csv") for word in words]
    assert main(["evaluate", str(ROOT / "examples" / "items"), "--out", str(tmp_path / "out"), *words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert re.search(reason, line)
    assert not (tmp_path / "out").exists()
