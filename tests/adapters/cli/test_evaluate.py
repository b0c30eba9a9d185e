"""`evaluate` writes a report; what it cannot do is a sentence."""

import json
import re
from pathlib import Path

import pytest

from adapters.cli import main


@pytest.fixture
def item(tmp_path: Path) -> str:
    prompts = {
        str(number): {"1": {"mimetype": "application/text", "value": f"How much is {number}+2?"}}
        for number in range(1, 5)
    }
    (tmp_path / "sums.json").write_text(json.dumps({"prompts": prompts}))
    lines = [
        {"item": "sums.json", "prompt": str(number), "answer": f"{number} + 2 = {number + 2}"}
        for number in range(1, 5)
    ]
    (tmp_path / "truth.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(tmp_path / "sums.json")


def test_a_report_is_written_and_summed_up(item, tmp_path, capsys):
    truth, out = str(tmp_path / "truth.jsonl"), tmp_path / "report"
    assert main(["evaluate", item, "--truth", truth, "--out", str(out), "--max-error", "0.5"]) == 0
    printed = capsys.readouterr().out
    assert "of 4 answers" in printed
    assert f"report: {out / 'report.html'}" in printed
    assert (out / "report.html").exists()


def test_an_item_without_an_answer_is_told_and_fails_the_command(item, tmp_path, capsys):
    truth, missing = str(tmp_path / "truth.jsonl"), str(tmp_path / "missing")
    assert main(["evaluate", item, missing, "--truth", truth, "--out", str(tmp_path / "report")]) == 1
    said = capsys.readouterr()
    assert "of 4 answers" in said.out
    assert said.err.splitlines()[-1] == f"error: {missing}: it cannot be read (No such file or directory)"


def test_a_table_is_no_item_and_what_is_read_is_told(tmp_path, capsys):
    (tmp_path / "sums.csv").write_text("question\n1+1?\n")
    assert main(["evaluate", str(tmp_path / "sums.csv"), "--out", str(tmp_path / "out")]) == 2
    assert "sums.csv: it is not JSON (" in (said := capsys.readouterr().err)
    assert "): evaluate reads prompt items, .json files or folders of them" in said


def test_where_no_answer_is_right_another_measure_is_named(item, tmp_path, capsys):
    (tmp_path / "truth.jsonl").write_text(
        "".join(
            json.dumps({"item": "sums", "prompt": str(n), "answer": str(n + 2)}) + "\n" for n in range(1, 5)
        )
    )
    assert (
        main(["evaluate", item, "--truth", str(tmp_path / "truth.jsonl"), "--out", str(tmp_path / "out")])
        == 0
    )
    assert re.search(
        r"note: no answer is right by exact_match; by \w+ the mean score is \d.\d\d: choose by --measure\n",
        capsys.readouterr().out,
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--max-error", "little"], "--max-error 'little' is not a list of numbers: write 0.01,0.05"),
        (["--model", "tiny_tlak"], "did you mean 'tiny_talk'?"),
        (["--measure", "nothing"], "nothing"),
    ],
)
def test_wrong_usage_is_a_sentence(words: list[str], told: str, item, tmp_path, capsys):
    arguments = ["evaluate", item, "--truth", str(tmp_path / "truth.jsonl"), "--out", str(tmp_path / "out")]
    assert main([*arguments, *words]) == 2
    assert told in capsys.readouterr().err
