"""`evaluate` writes a report; what it cannot do is a sentence."""

import json
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
