"""The command line writes answers as they come, and when it is interrupted, what there is."""

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from adapters.cli import main
from engine.types import Request

ROOT = Path(__file__).parents[3]
STOPS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
Reply = Callable[[Request], str]


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., list[str]]:
    """Writes a file for each question; returns the arguments that ask them all."""

    def make(*questions: str) -> list[str]:
        files = []
        for number, question in enumerate(questions):
            files.append(str(tmp_path / f"{number}.json"))
            prompt = {"1": {"mimetype": "application/text", "value": question}}
            Path(files[-1]).write_text(json.dumps({"prompts": {"key": prompt}}))
        return ["predict", *files]

    return make


def question(request: Request) -> str:
    return request.messages[-1].text


def stopping_at(word: str, number: int) -> Reply:
    """Answers with the question; at one of them a signal comes."""

    def reply(request: Request) -> str:
        if question(request) == word:
            signal.raise_signal(number)
        return question(request)

    return reply


def texts(document: str) -> list[str | None]:
    """The answers of a JSON document, null where an item has none."""
    return [item["answers"][0]["answer"] for item in json.loads(document)]


def test_each_answer_is_written_before_the_next_is_waited_for(model, ask, capsys):
    seen = []

    def reply(request: Request) -> str:
        seen.append(capsys.readouterr().out)
        return question(request)

    model(reply)
    assert main([*ask("a", "b", "c"), "--jsonl"]) == 0
    lines = [*seen[1:], capsys.readouterr().out]
    assert [json.loads(line)["answer"] for line in lines] == ["a", "b", "c"]


def test_a_line_says_what_was_asked_and_what_came_of_it(model, ask, capsys):
    model(question)
    arguments = ask("Hello", "")
    assert main([*arguments, "/no/such/file", "--jsonl"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        {
            "item": arguments[1],
            "prompt": "key",
            "question": "Hello",
            "answer": "Hello",
            "confidence": None,
            "error": None,
        },
        {
            "item": arguments[2],
            "prompt": None,
            "question": None,
            "answer": None,
            "confidence": None,
            "error": "there is nothing to ask: no prompt has a user's text or image",
        },
        {
            "item": "/no/such/file",
            "prompt": None,
            "question": None,
            "answer": None,
            "confidence": None,
            "error": "cannot be read (No such file or directory)",
        },
    ]


@pytest.mark.parametrize(("number", "code"), STOPS)
def test_interrupted_lines_are_those_that_were_answered(number: int, code: int, model, ask, capsys):
    engine = model(stopping_at("c", number))
    assert main([*ask("a", "b", "c", "d"), "--jsonl"]) == code
    printed = capsys.readouterr()
    assert [json.loads(line)["answer"] for line in printed.out.splitlines()] == ["a", "b"]
    assert printed.err == "error: interrupted: 2 of 4 files are done\n"
    assert len(engine.requests) == 3


@pytest.mark.parametrize(("number", "code"), STOPS)
def test_an_interrupted_document_is_whole(number: int, code: int, model, ask, capsys):
    model(stopping_at("c", number))
    assert main([*ask("a", "b", "c", "d"), "--json"]) == code
    assert texts(capsys.readouterr().out) == ["a", "b"]


def test_a_document_that_is_interrupted_at_once_is_an_empty_list(model, ask, capsys):
    model(stopping_at("a", signal.SIGINT))
    assert main([*ask("a", "b"), "--json"]) == 130
    assert json.loads(capsys.readouterr().out) == []


def test_in_an_interrupted_document_each_answer_names_its_file(model, ask, capsys):
    engine = model(question)
    forwards = engine.stream

    def backwards(*arguments, **options):
        for chunk in reversed(list(forwards(*arguments, **options))):
            if chunk.index == 1:
                signal.raise_signal(signal.SIGINT)
            yield chunk

    engine.stream = backwards
    arguments = ask("a", "b", "c", "d")
    assert main([*arguments, "--json"]) == 130
    document = capsys.readouterr().out
    assert texts(document) == ["c", "d"]
    assert [item["item"] for item in json.loads(document)] == arguments[3:]


def test_an_interrupted_table_has_what_was_answered(model, ask, capsys):
    model(stopping_at("third", signal.SIGINT))
    assert main(ask("first", "second", "third")) == 130
    table = capsys.readouterr().out
    assert "second" in table
    assert "third" not in table


def test_a_signal_while_an_answer_is_written_waits_until_it_is_whole(model, ask, monkeypatch, capsys):
    written = []

    class Slow:
        def write(self, text: str) -> None:
            if text:
                written.append(text[:5])
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)
                written.append(text[5:])

    model(question)
    monkeypatch.setattr(sys, "stdout", Slow())
    assert main([*ask("a", "b"), "--json"]) == 130
    assert texts("".join(written)) == ["a"]


GREEDY = """
import signal

class HuggingAdapter:
    def __init__(self, configuration): pass

    def predict(self, batch, **kwargs):
        try:
            if any("stop" in item["prompts"]["key"]["1"]["value"] for item in batch):
                signal.raise_signal(signal.SIGINT)
        except BaseException:
            pass
        return [[{"coordinates": "yes", "metadata": {"system": {"promptId": "key"}}}] for _ in batch]
"""


def test_a_model_file_that_catches_everything_is_interrupted_all_the_same(user_models, ask, capsys):
    (user_models / "greedy.py").write_text(GREEDY)
    files = ask(*["go"] * 10, "stop", *["go"] * 20)
    assert main([*files, "--model", "greedy", "--json"]) == 130
    assert set(texts(capsys.readouterr().out)) == {"yes"}


def test_the_callers_signal_handlers_are_there_again_afterwards(model, ask):
    model(stopping_at("a", signal.SIGTERM))
    before = [signal.getsignal(number) for number, _ in STOPS]
    assert main(ask("a")) == 143
    assert [signal.getsignal(number) for number, _ in STOPS] == before


def test_what_ignores_ctrl_c_in_the_background_goes_on(model, ask, capsys):
    model(stopping_at("a", signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert main([*ask("a", "b"), "--json"]) == 0
    finally:
        signal.signal(signal.SIGINT, before)
    assert texts(capsys.readouterr().out) == ["a", "b"]


WAITS = """
import threading
from adapters.hugging import HuggingAdapter as Ours
from tests.fakes import FakeEngine

def reply(request):
    if request.messages[-1].text == "wait":
        threading.Event().wait()
    return request.messages[-1].text

class HuggingAdapter(Ours):
    model_name = "waits"

    def load(self, local_path=None):
        self._engine = FakeEngine(reply)
"""
COMMAND = """
import pathlib, sys
from adapters import registry
registry.FOLDER = pathlib.Path(sys.argv.pop(1))
sys.argv[0] = "adapters"
import runpy
runpy.run_module("adapters", run_name="__main__")
"""


@pytest.mark.parametrize(("number", "code"), STOPS)
def test_a_process_that_waits_for_an_answer_ends_with_what_there_is(number, code, user_models, ask):
    (user_models / "waits.py").write_text(WAITS)
    command = subprocess.Popen(
        [sys.executable, "-c", COMMAND, str(user_models), *ask("a", "wait"), "--model", "waits", "--jsonl"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    first = command.stdout.readline()
    command.send_signal(number)
    rest, errors = command.communicate()
    assert command.returncode == code
    assert json.loads(first)["answer"] == "a"
    assert (rest, errors) == ("", "error: interrupted: 1 of 2 files are done\n")


def test_a_file_that_breaks_the_engine_costs_no_other(model, ask, capsys):
    def reply(request: Request) -> str:
        if question(request) == "b":
            raise RuntimeError("no such kernel")
        return question(request)

    model(reply)
    arguments = ask("a", "b", "c", "d")
    assert main([*arguments, "--json"]) == 1
    printed = capsys.readouterr()
    assert texts(printed.out) == ["a", None, "c", "d"]
    assert printed.err == f"error: {arguments[2]}: RuntimeError: no such kernel\n"


def test_a_model_file_that_ends_the_process_costs_no_answer(model, ask, capsys):
    def reply(request: Request) -> str:
        if question(request) == "b":
            sys.exit(0)
        return question(request)

    model(reply)
    assert main([*ask("a", "b", "c"), "--json"]) == 1
    printed = capsys.readouterr()
    assert texts(printed.out) == ["a"]
    assert "models/tiny_talk.py ended the run (SystemExit(0)): 1 of 3 files are done" in printed.err


def test_a_file_can_be_read_once_only(model, ask, capsys, tmp_path):
    # As <(…) of a shell.
    model(question)
    (_, file) = ask("a")
    readable, writable = os.pipe()
    os.write(writable, Path(file).read_bytes())
    os.close(writable)
    assert main(["predict", f"/dev/fd/{readable}", "--json"]) == 0
    os.close(readable)
    assert texts(capsys.readouterr().out) == ["a"]


OWN = """
class HuggingAdapter:
    def __init__(self, configuration): pass

    def predict(self, batch, **kwargs):
        return [[{"coordinates": "seen", "metadata": {"system": {"promptId": "1"}}}] for _ in batch]
"""


def test_an_answer_to_a_prompt_that_only_the_model_file_can_read_is_shown(
    user_models, tmp_path, capsys, caplog
):
    (user_models / "own.py").write_text(OWN)
    (tmp_path / "item.json").write_text('{"prompts": {"1": "a form of their own"}}')
    arguments = ["predict", str(tmp_path / "item.json"), "--model", "own"]
    with caplog.at_level(logging.WARNING):
        assert main(arguments) == 0
    assert "│ item.json │ 1        │ -          │ seen     │" in capsys.readouterr().out
    assert caplog.records == []
