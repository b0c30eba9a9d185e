"""The command line answers prompt-item files with no platform, and says what it could not answer."""

import io
import json
import logging
import sys
from pathlib import Path

import pytest

from adapters.cli import main


@pytest.fixture
def model(tiny_model: Path) -> list[str]:
    """Arguments that choose a tiny model."""
    return ["--model", "auto_causal_lm", "--set", f"model_name={tiny_model}", "--set", "max_new_tokens=8"]


@pytest.fixture
def files(tmp_path: Path, questions: dict, messages: dict) -> dict[str, str]:
    """Prompt-item files, good and bad."""
    contents = {
        "questions": json.dumps(questions),
        "messages": json.dumps(messages),
        "broken": "{",
        "list": "[]",
        "empty": json.dumps({**questions, "prompts": {}}),
        "half": json.dumps({**questions, "prompts": {**questions["prompts"], "third": "no prompt"}}),
        "binary": "",
    }
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_text(content)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    return {name: str(tmp_path / f"{name}.json") for name in [*contents, "missing"]}


def answered(document: str) -> list[int]:
    """How many answers each item of a JSON document has."""
    return [sum(row["answer"] is not None for row in item["answers"]) for item in json.loads(document)]


def test_json_is_one_document_with_an_object_for_each_item(model, files, capsys):
    assert main(["predict", files["questions"], files["messages"], "--json", *model]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [item["item"] for item in document] == [files["questions"], files["messages"]]
    asked = [[(row["prompt"], row["question"]) for row in item["answers"]] for item in document]
    assert asked == [
        [("first", "Hello"), ("first", "And again"), ("second", "Grüß Gott")],
        [("1", "Hello"), ("2", "And again")],
    ]
    for row in (row for item in document for row in item["answers"]):
        assert set(row) == {"prompt", "question", "answer", "confidence", "error"}
        assert isinstance(row["answer"], str)
        assert 0 < row["confidence"] <= 1
        assert row["error"] is None


def test_a_file_that_cannot_be_answered_is_named_and_costs_no_other(model, files, capsys):
    bad = ["broken", "list", "empty", "binary", "missing"]
    order = [
        files[name] for name in ["broken", "questions", "list", "empty", "messages", "binary", "missing"]
    ]
    assert main(["predict", *order, "--json", *model]) == 1
    printed = capsys.readouterr()
    assert answered(printed.out) == [0, 3, 0, 0, 2, 0, 0]
    assert all(
        row["error"] for item in json.loads(printed.out) for row in item["answers"] if row["answer"] is None
    )
    reasons = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert len(reasons) == len(bad)
    for name in bad:
        assert any(files[name] in reason for reason in reasons)


def test_a_file_with_one_bad_prompt_keeps_its_other_answers(model, files, capsys):
    assert main(["predict", files["half"], "--json", *model]) == 1
    printed = capsys.readouterr()
    [item] = json.loads(printed.out)
    assert [row["prompt"] for row in item["answers"]] == ["first", "first", "second", "third"]
    assert [row["error"] is None for row in item["answers"]] == [True, True, True, False]
    assert "'third'" in printed.err


def test_without_json_a_table_shows_every_question(model, files, capsys):
    assert main(["predict", files["questions"], *model]) == 0
    table = capsys.readouterr().out
    for word in ["questions.json", "first", "second", "And again", "Grüß Gott", "confidence"]:
        assert word in table


def test_earlier_answers_in_a_file_are_this_models_however_it_is_spelled(model, messages, tmp_path, capsys):
    earlier = {"system": {"promptId": "1"}, "user": {"model": {"name": "auto_causal_lm"}}}
    messages["annotations"] = [{"type": "text", "coordinates": "An earlier answer", "metadata": earlier}]
    (tmp_path / "item.json").write_text(json.dumps(messages))
    model[1] = "auto-causal-lm"
    assert main(["predict", str(tmp_path / "item.json"), *model]) == 0
    table = capsys.readouterr().out
    assert "And again" in table
    assert "│ -" not in table, "the turn that has its answer is not shown as unanswered"


def test_odd_characters_cost_no_answer(model, questions, tmp_path, capfd):
    questions["prompts"] = {"half \ud83d": {"1": {"mimetype": "text", "value": "half \ud83d"}}}
    (tmp_path / "half.json").write_text(json.dumps(questions))
    (tmp_path / "bom.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(questions).encode())
    files = [str(tmp_path / name) for name in ("half.json", "bom.json")]
    assert main(["predict", *files, "--json", *model]) == 0
    document = capfd.readouterr().out
    assert answered(document) == [1, 1]
    assert json.loads(document)[0]["answers"][0]["prompt"] == "half \ud83d"


def test_no_readable_file_loads_no_model(files, capsys):
    assert main(["predict", files["broken"], "--json", "--model", "meta_llama_3_8b_instruct"]) == 1
    assert answered(capsys.readouterr().out) == [0]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--model", "nobody"], "there is no model 'nobody'"),
        (["--set", "temprature=1"], "did you mean 'temperature'?"),
        (["--set", "temperature"], "is not KEY=VALUE"),
        (["--set", "model_name=/no/such/folder"], "no such folder"),
    ],
)
def test_wrong_usage_is_one_plain_sentence(arguments, reason, files, capsys):
    assert main(["predict", files["questions"], *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert reason in printed.err
    assert len(printed.err.strip().splitlines()) == 1


class Terminal(io.StringIO):
    """Standard error that passes for a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_the_memory_is_told_in_a_line_on_a_terminal_and_logged(
    model, files, capsys, caplog, monkeypatch: pytest.MonkeyPatch, kind: type[io.StringIO]
):
    caplog.set_level(logging.INFO, "adapters.hugging")
    monkeypatch.setattr(sys, "stderr", kind())
    assert main(["predict", files["questions"], *model, "--json"]) == 0
    lines = [line for line in sys.stderr.getvalue().splitlines() if line.startswith("memory: ")]
    assert len(lines) == (kind is Terminal)
    assert all("weights" in line and "KV cache" in line and "peak" in line for line in lines)
    assert answered(capsys.readouterr().out) == [3]
    after = [record.getMessage().split(": weights")[0] for record in caplog.records]
    assert after == ["auto_causal_lm: memory after loading", "auto_causal_lm: memory after a run"]
