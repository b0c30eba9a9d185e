"""`chat` holds a conversation, changes its options, saves it, and survives what goes wrong."""

import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from adapters import registry
from adapters.cli import main
from engine.errors import GenerationError
from engine.types import Request
from tests.helpers.calibrated_models import calibrated_talk

ROOT = Path(__file__).parents[3]


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capsys):
    """Runs a chat with these lines; returns its exit code and what it printed."""

    def run(*lines: str) -> tuple[int, list[str]]:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        code = main(["chat"])
        return code, capsys.readouterr().out.splitlines()

    return run


def last(request: Request) -> str:
    return f"{request.messages[-1].text} ({len(request.messages)})"


def test_each_question_is_asked_with_the_turns_before_it(say, model):
    engine = model(last)
    assert say("Hello", "", "And again") == (0, ["Hello (1)", "And again (3)"])
    assert [message.text for message in engine.requests[1].messages] == ["Hello", "Hello (1)", "And again"]


def test_a_calibrated_model_says_its_calibrated_confidence(say, monkeypatch, tmp_path):
    adapter = calibrated_talk()
    monkeypatch.setattr(registry, "load", lambda *_: adapter)
    file = tmp_path / "item.json"
    question = "What is the capital of Japan?"
    code, printed = say("/confidence", question, "/set confidence=calibrated", question, f"/save {file}")
    assert code == 0
    said = [float(line.split()[1].rstrip("];")) for line in printed if line.startswith("[confidence 0")]
    answers = json.loads(file.read_text())["annotations"]
    saved = [one["metadata"]["user"]["model"]["confidence"] for one in answers]
    assert said == pytest.approx(saved, abs=1e-3)
    assert said == pytest.approx([0.5, 0.5], abs=0.02), "half of what the model gives"


def test_options_are_set_and_shown_and_a_wrong_one_is_named(say, model):
    engine = model(last)
    code, printed = say("/set temperature=0.7", "/set temprature=1", "/set nonsense", "/set", "Hi")
    assert code == 0
    assert printed[0] == "error: unknown option 'temprature': did you mean 'temperature'?"
    assert "is not KEY=VALUE" in printed[1]
    assert printed[2] == "temperature=0.7"
    assert engine.requests[0].options.temperature == 0.7


def test_the_system_prompt_is_set_and_shown(say, model):
    engine = model(last)
    _, printed = say("/system", "/system Be brief.", "/system", "Hi")
    assert printed[:2] == ["no system prompt: /system TEXT sets one", "Be brief."]
    assert engine.requests[0].options.system_prompt == "Be brief."


def test_retry_asks_the_last_question_without_its_answer(say, model):
    engine = model(last)
    _, printed = say("/retry", "Hello", "Again", "/retry", "/clear", "/retry")
    assert printed[0].startswith("error: there is nothing to ask again")
    assert [len(request.messages) for request in engine.requests] == [1, 3, 3]
    assert "try /set temperature=0.7" in printed[3]
    assert printed[5].startswith("error: there is nothing to ask again")


def test_a_question_without_an_answer_is_told_and_can_be_asked_again(say, model):
    tried = []

    def reply(request: Request) -> str:
        tried.append(request)
        if len(tried) == 2:
            raise GenerationError("out of luck")
        return "yes"

    engine = model(reply)
    code, printed = say("Hello", "Hello", "/retry")
    assert code == 1
    assert printed[0::3] == ["yes", "yes"]
    assert printed[1] == "error: out of luck"
    assert [len(request.messages) for request in engine.requests] == [1, 3, 3]


def test_ctrl_c_stops_an_answer_and_keeps_what_there_is_of_it(say, model):
    engine = model(last)
    forwards = engine.stream

    def interrupted(*arguments, **options):
        for number, chunk in enumerate(forwards(*arguments, **options)):
            if number == 2 and len(engine.requests) == 1:
                signal.raise_signal(signal.SIGINT)
            yield chunk

    engine.stream = interrupted
    assert say("Hello", "Go on") == (0, ["He [stopped]", "Go on (3)"])
    assert [message.text for message in engine.requests[1].messages] == ["Hello", "He", "Go on"]


def test_sigterm_ends_the_chat(say, model):
    def reply(request: Request) -> str:
        signal.raise_signal(signal.SIGTERM)
        return "never"

    model(reply)
    assert say("Hello")[0] == 143


def test_a_saved_conversation_is_a_prompt_item_that_goes_on(say, model, tmp_path, capsys):
    model(last)
    file = tmp_path / "item.json"
    (tmp_path / "there.json").write_text("mine")
    _, printed = say(
        "/system Be brief.",
        "Hello",
        f"/save {file}",
        "Bye",
        f"/save {file}",
        f"/save {tmp_path}/there.json",
        "/save",
    )
    assert printed[1] == f"[1 turns are in {file}]"
    assert printed[3] == f"[2 turns are in {file}]"
    assert "is there already: choose another name" in printed[4]
    assert "/save needs a file" in printed[5]
    assert (tmp_path / "there.json").read_text() == "mine"
    saved = json.loads(file.read_text())
    assert list(saved["prompts"]) == ["system", "1", "2"]
    assert [answer["coordinates"] for answer in saved["annotations"]] == ["Hello (1)", "Bye (3)"]
    engine = model(last)
    assert main(["predict", str(file), "--jsonl"]) == 0
    assert json.loads(capsys.readouterr().out)["question"] == "Bye"
    assert [(message.role, message.text) for message in engine.requests[0].messages] == [
        ("system", "Be brief."),
        ("user", "Hello"),
        ("assistant", "Hello (1)"),
        ("user", "Bye"),
    ]


def test_a_confidence_that_is_not_known_is_told_so(say, model):
    model(last)
    _, printed = say("/confidence", "Hi", "/confidence", "Hi")
    assert printed == [
        "[confidence is shown]",
        "Hi (1)",
        "[confidence unknown: the server gives no log-probabilities]",
        "[confidence is not shown]",
        "Hi (3)",
    ]


def test_an_unknown_command_suggests_the_nearest_and_help_lists_them(say, model):
    model(last)
    _, printed = say("/sav x", "/xyzzy", "/help", "/quit", "never asked")
    assert printed[0] == "error: there is no command /sav: did you mean /save?"
    assert printed[1] == "error: there is no command /xyzzy: /help lists them"
    assert printed[-1].startswith("/quit")


def test_control_characters_of_an_answer_do_nothing_to_the_terminal(say, model):
    model(lambda request: "a\x1b[2Jb\nc")
    assert say("Hi") == (0, ["a\N{REPLACEMENT CHARACTER}[2Jb", "c"])


def test_a_model_file_with_a_class_of_its_own_is_refused(user_models, monkeypatch, capsys):
    source = "class HuggingAdapter:\n def __init__(self, _): ...\n def predict(self, batch): ...\n"
    (user_models / "own.py").write_text(source)
    assert main(["chat", "--model", "own"]) == 2
    assert "models/own.py has a class of its own" in capsys.readouterr().err


@pytest.mark.slow
def test_the_shipped_model_talks_on_a_terminal_and_says_how_sure_it_is():
    """With a pseudo-terminal: prompts, history and Ctrl-C at the prompt."""
    mine, theirs = pty.openpty()
    command = subprocess.Popen(
        [sys.executable, "-m", "adapters", "chat"],
        cwd=ROOT,
        env=os.environ | {"NO_COLOR": "1", "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    seen = ""

    def until(text: str) -> None:
        nonlocal seen
        while text not in seen:
            assert select.select([mine], [], [], 120)[0], f"it waits, and has written: {seen}"
            seen += os.read(mine, 1000).decode()
        seen = seen.partition(text)[2]

    until("> ")
    command.send_signal(signal.SIGINT)
    os.write(mine, b"\n")  # Python may see a signal late that comes just before it waits for a line.
    until("> ")
    os.write(mine, b"/confidence\n")
    until("[confidence is shown]")
    os.write(mine, b"What is the capital of Japan?\n")
    until("The capital of Japan is Tokyo.")
    until("[confidence 0.9")
    os.write(mine, b"/quit\n")
    assert command.wait() == 0
    os.close(mine)


def test_a_second_model_without_the_page_is_refused(capsys):
    assert main(["chat", "--second", "gpt2"]) == 2
    assert "--second is for the page: add --page" in capsys.readouterr().err
