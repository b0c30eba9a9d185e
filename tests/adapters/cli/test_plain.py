"""`predict` asks about lines, rows of tables and JSON objects by `prompt_template`."""

import io
import json
import sys
from pathlib import Path

import pytest

from adapters.cli import main


@pytest.fixture(autouse=True)
def echo(model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model(lambda request: f"{request.messages[-1].text}!")
    monkeypatch.chdir(tmp_path)


def asked(name: str, content: str, template: str, capsys, code: int = 0, *arguments: str) -> list[tuple]:
    """Item, question and error of each line that the command prints."""
    if name != "-":
        Path(name).write_text(content, newline="")
    words = ["predict", name, "--jsonl", "--set", f"prompt_template={template}", *arguments]
    assert main(words) == code
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [(row["item"], row["question"], row["error"]) for row in rows]


def test_the_columns_of_a_table(capsys):
    table = 'id,review title\n1,"a ""b"",\nc"\n2,\n3,d,e\n4\n'
    assert asked(
        "t.csv", table, "Is {review title} ({id}) {labels}?", capsys, 1, "--set", 'labels=["x","y"]'
    ) == [
        ("t.csv:2", 'Is a "b",\nc (1) x, y?', None),
        ("t.csv:3", "Is  (2) x, y?", None),
        ("t.csv:4", None, "has 1 more cells than the first line has names"),
        (
            "t.csv:5",
            None,
            "it has no {review title} of prompt_template: it has id",
        ),
    ]


def test_a_table_with_two_columns_of_one_name_is_refused(capsys):
    table = "country,year,country\nJapan,1,Peru\n"
    said = "has two columns 'country': give each its own name"
    assert asked("t.csv", table, "{country}?", capsys, 1) == [("t.csv", None, said)]


def test_the_keys_of_json_lines_and_prompt_items_among_them(capsys, questions):
    lines = "\n".join(map(json.dumps, [{"a": "x", "b": 1}, "y", {"a": "z"}, questions])) + "\n"
    assert asked("l.jsonl", lines, "{a}{b}", capsys, 1) == [
        ("l.jsonl:1", "x1", None),
        ("l.jsonl:2", None, "it has no {a} and no {b} of prompt_template: it has text"),
        ("l.jsonl:3", None, "it has no {b} of prompt_template: it has a"),
        ("l.jsonl:4", "Hello", None),
        ("l.jsonl:4", "And again", None),
        ("l.jsonl:4", "Grüß Gott", None),
    ]


def test_lines_of_a_text_and_of_standard_input(capsys, monkeypatch):
    assert asked("t.txt", "one\n{two}\n", "<{text}>", capsys) == [
        ("t.txt:1", "<one>", None),
        ("t.txt:2", "<{two}>", None),
    ]
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n"))
    assert asked("-", "", "<{text}>", capsys) == [("stdin:1", "<one>", None)]


def test_a_table_without_a_template_says_what_to_set(capsys):
    Path("t.csv").write_text("a\n1\n")
    assert main(["predict", "t.csv"]) == 1
    assert "error: t.csv: is a table: set prompt_template" in capsys.readouterr().err


def test_a_template_that_cannot_be_is_refused_before_anything_is_asked(capsys):
    Path("t.txt").write_text("a\n")
    assert main(["predict", "t.txt", "--set", "prompt_template={text.x}"]) == 2
    assert "option 'prompt_template': {text.x} is no plain name" in capsys.readouterr().err


def test_a_table_that_is_broken_keeps_the_rows_before(capsys):
    assert asked("t.csv", "a\n1\n2\x00\n", "{a}", capsys)[0] == ("t.csv:2", "1", None)
