"""What the command line writes arrives: whatever the output is, whoever prints beside it."""

import array
import fcntl
import io
import json
import os
import signal
import subprocess
import sys
import termios
from pathlib import Path
from types import SimpleNamespace

import pytest

from adapters.cli import main

ROOT = Path(__file__).parents[3]
ODD = "clé 😀 \u2028\x85 half \ud83d"


@pytest.fixture
def odd(user_models: Path, tmp_path: Path) -> list[str]:
    """Arguments that ask a model whose answers repeat their prompts' odd keys."""
    (user_models / "echo.py").write_text(ECHO)
    file = tmp_path / "odd.json"
    file.write_text(json.dumps({"prompts": {ODD: {"1": {"mimetype": "application/text", "value": "Hello"}}}}))
    return ["predict", str(file), "--model", "echo"]


ECHO = """
print("imported")

class HuggingAdapter:
    def __init__(self, configuration): print("made")

    def load(self, local_path): print("loaded")

    def predict(self, batch, **kwargs):
        print("asked")
        return [[self.answer(key) for key in item["prompts"]] for item in batch]

    def answer(self, key):
        return {"coordinates": key, "metadata": {"system": {"promptId": key}}}
"""


@pytest.mark.parametrize("form", ["--json", "--jsonl"])
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1", "utf-8", "utf-16"])
def test_json_arrives_as_it_was_in_any_encoding(encoding: str, form: str, odd, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    assert main([*odd, form]) == 0
    text = stream.buffer.getvalue().decode(encoding)
    if form == "--jsonl":
        (line,) = text.splitlines()
        assert json.loads(line)["answer"] == ODD
    else:
        assert json.loads(text)[0]["answers"][0]["answer"] == ODD


@pytest.mark.parametrize(("encoding", "corner"), [("ascii", "+"), ("cp1252", "+"), ("utf-8", "┌")])
def test_the_table_is_drawn_with_what_the_output_has(encoding: str, corner: str, odd, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(odd) == 0
    lines = stream.buffer.getvalue().decode(encoding).splitlines()
    assert lines[0].startswith(corner)
    assert "\\ud83d" in "".join(lines)
    if encoding == "ascii":
        assert len({len(line) for line in lines}) == 1


class Notebook:
    """A notebook's stream: it has neither `reconfigure` nor `fileno`."""

    def __init__(self, **attributes: object) -> None:
        self.text = ""
        self.__dict__.update(attributes)

    def write(self, text: str) -> None:
        self.text += text


@pytest.mark.parametrize("attributes", [{}, {"encoding": None}, {"encoding": "UTF-8", "flush": lambda: None}])
def test_an_output_that_can_only_be_written_to_is_enough(attributes, odd, monkeypatch):
    monkeypatch.setattr(sys, "stdout", stream := Notebook(**attributes))
    assert main([*odd, "--json"]) == 0
    assert json.loads(stream.text)[0]["answers"][0]["answer"] == ODD


def closed() -> io.StringIO:
    (stream := io.StringIO()).close()
    return stream


@pytest.mark.parametrize("stream", [None, closed()])
@pytest.mark.parametrize("command", ["predict", "models"])
def test_without_an_output_no_model_is_asked(command: str, stream, odd, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(odd if command == "predict" else ["models"]) == 2
    assert capsys.readouterr().err == (
        "error: there is no standard output to write to: redirect it to a file\n"
    )


def test_without_standard_error_the_output_is_the_answers_alone(odd, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["predict", "/no/such/file", *odd[1:], "--json"]) == 1
    missing, answered = json.loads(capsys.readouterr().out)
    assert missing["answers"][0]["error"] == "cannot be read (No such file or directory)"
    assert answered["answers"][0]["answer"] == ODD


@pytest.mark.parametrize("form", ["--json", "--jsonl"])
def test_what_a_model_file_prints_is_not_on_the_output(form: str, odd, capsys):
    assert main([*odd, form]) == 0
    printed = capsys.readouterr()
    json.loads(printed.out)
    assert printed.err.split() == ["imported", "made", "loaded", "asked"]


def test_a_full_disk_is_one_sentence(odd, monkeypatch, capsys):
    def write(text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", SimpleNamespace(write=write))
    assert main([*odd, "--jsonl"]) == 1
    assert (
        "error: the output cannot be written ([Errno 28] No space left on device)" in capsys.readouterr().err
    )


@pytest.mark.parametrize("arguments", [["models"], ["--help"], ["predict", __file__, "--json"]])
def test_who_stops_reading_ends_the_command_quietly(arguments: list[str]):
    command = subprocess.Popen(
        [sys.executable, "-m", "adapters", *arguments],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if key != "PYTHONUNBUFFERED"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    command.stdout.close()
    assert command.wait() == 141
    assert command.stderr.read() == ""


WAITING = """
import os, signal, sys
from adapters.cli.output import Output
signal.signal(signal.SIGINT, lambda *_: os.write(2, b"came\\n"))
Output(sys.stdout).write("a" * 200_000 + "end")
"""


def test_a_signal_while_a_reader_lets_the_output_wait_costs_no_character():
    command = [sys.executable, "-c", WAITING]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as writer:
        waiting = array.array("i", [0])
        while waiting[0] < 50_000:  # Until the writer waits, or is about to.
            fcntl.ioctl(writer.stdout, termios.FIONREAD, waiting)
        while Path(f"/proc/{writer.pid}/stat").read_text().rpartition(")")[2].split()[0] == "R":
            pass
        writer.send_signal(signal.SIGINT)
        assert writer.stderr.readline() == b"came\n"
        assert writer.stdout.read() == b"a" * 200_000 + b"end"
