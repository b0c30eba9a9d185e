"""`predict` takes files, folders, patterns, lines and standard input, and writes where it is told."""

import io
import json
import re
import sys
from pathlib import Path

import pytest

from adapters.cli import main
from engine.types import Request


@pytest.fixture(autouse=True)
def echo(model) -> None:
    model(lambda request: f"{request.messages[-1].text}!")


def item(text: str) -> str:
    return json.dumps({"prompts": {"key": {"1": {"mimetype": "application/text", "value": text}}}})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with inputs of every kind."""
    (tmp_path / "items" / "more").mkdir(parents=True)
    (tmp_path / "items" / "b.json").write_text(item("b"))
    (tmp_path / "items" / "more" / "a.json").write_text(item("a"))
    (tmp_path / "lines.txt").write_text("one\n\n two \n")
    (tmp_path / "lines.jsonl").write_text(f'{item("x")}\n"y"\n{{\n[]\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(*arguments: str, capsys: pytest.CaptureFixture, code: int = 0) -> list[tuple]:
    """Item, question and answer of each line that the command prints."""
    assert main(["predict", *arguments, "--jsonl"]) == code
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [(row["item"], row["question"], row["answer"]) for row in rows]


def test_a_folder_is_its_items(folder, capsys):
    assert asked("items", capsys=capsys) == [("items/b.json", "b", "b!"), ("items/more/a.json", "a", "a!")]


def test_a_pattern_that_the_shell_left_is_its_files(folder, capsys):
    assert asked("items/**/*.json", capsys=capsys) == [
        ("items/b.json", "b", "b!"),
        ("items/more/a.json", "a", "a!"),
    ]


def test_each_line_of_a_text_is_a_question(folder, capsys):
    assert asked("lines.txt", capsys=capsys) == [
        ("lines.txt:1", "one", "one!"),
        ("lines.txt:3", "two", "two!"),
    ]


def test_each_line_of_jsonl_is_an_item_or_a_question_and_a_bad_one_costs_no_other(folder, capsys):
    assert asked("lines.jsonl", capsys=capsys, code=1) == [
        ("lines.jsonl:1", "x", "x!"),
        ("lines.jsonl:2", "y", "y!"),
        ("lines.jsonl:3", None, None),
        ("lines.jsonl:4", None, None),
    ]


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        ("one\ntwo\n", [("stdin:1", "one", "one!"), ("stdin:2", "two", "two!")]),
        (item("x"), [("stdin:1", "x", "x!")]),
        (json.dumps(json.loads(item("x")), indent=2), [("stdin", "x", "x!")]),
        (f'{item("x")}\n"y"\n', [("stdin:1", "x", "x!"), ("stdin:2", "y", "y!")]),
        ("12\n", [("stdin:1", "12", "12!")]),
    ],
)
def test_standard_input_is_an_item_json_lines_or_questions(given: str, rows: list, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(given))
    assert asked("-", capsys=capsys) == rows


@pytest.mark.parametrize("name", ["empty.txt", "empty.jsonl", "-"])
@pytest.mark.parametrize("text", ["", " \n\n"])
def test_what_has_no_line_to_ask_is_named(name: str, text: str, folder, monkeypatch, capsys):
    (folder / name).write_text(text)
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert main(["predict", name, "lines.txt"]) == 1
    said = capsys.readouterr()
    assert said.err == f"error: {'stdin' if name == '-' else name}: has nothing to ask: every line is empty\n"
    assert "two!" in said.out


@pytest.mark.parametrize("question", ["What is the capital of Peru?", "Add up all of these: " + "1 " * 500])
def test_a_question_in_the_place_of_a_file_is_told_where_it_belongs(question: str, folder, capsys):
    assert main(["predict", question]) == 1
    assert capsys.readouterr().err.endswith(
        "): ask a question by standard input: echo 'QUESTION' | python -m adapters predict -\n"
    )


def test_an_unknown_ending_is_read_as_an_item_and_named_where_that_fails(folder, capsys):
    (folder / "notes.md").write_text("Hello!")
    (folder / "item.prompt").write_text(item("x"))
    assert main(["predict", "notes.md", "item.prompt", "--jsonl"]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out.splitlines()[-1])["answer"] == "x!"
    assert re.fullmatch(
        r"error: notes.md: is not JSON \(.*\), and its ending is none of .csv, .json, .jsonl, .txt\n",
        said.err,
    )


def test_what_has_nothing_to_ask_is_named(folder, capsys):
    (folder / "empty").mkdir()
    (folder / "latin.txt").write_bytes(b"\xff\xfe")
    assert main(["predict", "empty", "no*.json", "latin.txt"]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors[0] == "error: empty: has no prompt items: a folder needs .json files"
    assert errors[1] == "error: no*.json: cannot be read (No such file or directory)"
    assert errors[2].startswith("error: latin.txt: is not text (")


@pytest.mark.parametrize("name", ["out.json", "out.jsonl", "out.txt"])
def test_out_writes_a_file_in_the_form_of_its_name(name: str, folder, capsys):
    assert main(["predict", "lines.txt", "--out", name]) == 0
    assert capsys.readouterr().out == ""
    text = (folder / name).read_text()
    if name == "out.json":
        assert [found["answers"][0]["answer"] for found in json.loads(text)] == ["one!", "two!"]
    elif name == "out.jsonl":
        assert [json.loads(line)["answer"] for line in text.splitlines()] == ["one!", "two!"]
    else:
        assert "│ lines.txt:1 │" in text


@pytest.mark.parametrize("name", ["out.csv", "out.npy"])
def test_out_in_a_form_that_is_not_written_is_refused(name: str, folder, capsys):
    assert main(["predict", "lines.txt", "--out", name]) == 2
    assert f"--out '{name}': answers are written as .json, .jsonl or .txt" in capsys.readouterr().err
    assert not (folder / name).exists()
    assert main(["predict", "lines.txt", "--jsonl", "--out", name]) == 0
    assert json.loads((folder / name).read_text().splitlines()[0])["answer"] == "one!"


def test_out_overwrites_no_input(folder, capsys):
    before = (folder / "lines.jsonl").read_text()
    assert main(["predict", "lines.jsonl", "--out", "./lines.jsonl"]) == 2
    assert "is one of the inputs" in capsys.readouterr().err
    assert (folder / "lines.jsonl").read_text() == before


def test_out_that_cannot_be_written_is_a_sentence(folder, capsys):
    assert main(["predict", "lines.txt", "--out", "no/such/folder.json"]) == 2
    assert "'no/such/folder.json' cannot be written (No such file or directory)" in capsys.readouterr().err


def test_an_interruption_among_lines_tells_how_many_are_done(folder, model, capsys):
    def reply(request: Request) -> str:
        if request.messages[-1].text == "two":
            raise KeyboardInterrupt
        return "yes"

    model(reply)
    assert main(["predict", "lines.txt"]) == 130


def test_a_name_with_a_slash_is_loaded_by_auto_causal_lm(folder, tiny_model, monkeypatch, capsys):
    from adapters import registry

    monkeypatch.undo()
    monkeypatch.chdir(folder)
    arguments = ["--model", str(tiny_model), "--set", "max_new_tokens=4", "--jsonl"]
    assert main(["predict", "lines.txt", *arguments]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert "auto_causal_lm" in registry.names()
