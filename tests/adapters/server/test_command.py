"""The command `serve`, and the page of the documentation that shows it."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from adapters import registry
from adapters.cli import main

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "server.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@contextmanager
def running(words: list[str]) -> Iterator[tuple[subprocess.Popen, str]]:
    """A server that was started by a command; its address."""
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        log = ""
        while not (found := re.search(r"running on (http://\S+)", log)):
            line = process.stderr.readline()
            assert line, log
            log += line
        yield process, found[1]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.slow
def test_the_commands_and_the_client_of_the_page_work(capsys: pytest.CaptureFixture[str]):
    _, serve, curl = blocks("bash")
    [client] = blocks("python")
    words = [sys.executable, *shlex.split(serve)[1:]]
    assert words[-2:] == ["--port", "8000"]
    with running([*words[:-1], "0"]) as (process, url):
        asked = ["sh", "-c", curl.replace("http://127.0.0.1:8000", url)]
        answer = subprocess.run(asked, capture_output=True, text=True, check=True)
        assert "The capital of Japan is Tokyo." in answer.stdout
        exec(client.replace("http://127.0.0.1:8000", url), {})
        lines = capsys.readouterr().out.splitlines()
        assert lines == ["The capital of Japan is Tokyo. 1.0", "The capital of Japan is Tokyo."]
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 128 + signal.SIGINT
        assert "Traceback" not in process.stderr.read()


def test_make_serve_serves_the_embedded_model(tmp_path: Path):
    (tmp_path / "ready").touch()
    words = ["make", "--no-print-directory", "-n", "serve", f"READY={tmp_path / 'ready'}"]
    make = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert shlex.split(make.stdout)[1:] == ["-m", "adapters", "serve"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "0.0.0.0"], "0.0.0.0 is reached from other machines"),
        (["--model", "nothing"], "there is no model 'nothing'"),
        (["--set", "temprature=1"], "did you mean 'temperature'"),
    ],
    ids=str,
)
def test_what_cannot_be_served_is_said(words: list[str], message: str, capsys, monkeypatch):
    monkeypatch.delenv("SERVER_API_KEY", raising=False)
    assert main(["serve", *words]) == 2
    assert message in capsys.readouterr().err


def test_an_address_that_cannot_be_listened_at_is_said_before_the_model_is_loaded(capsys, monkeypatch):
    monkeypatch.setattr(registry, "load", lambda *_: pytest.fail("the model is loaded"))
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
    reason = f"the server cannot listen at 127.0.0.1:{port} (Address already in use)"
    assert capsys.readouterr().err == f"error: {reason}: choose another --port, or --host\n"
    assert main(["serve", "--port", "65536"]) == 2
    assert "cannot listen at 127.0.0.1:65536 (" in capsys.readouterr().err


def test_a_key_of_the_environment_opens_an_address(capsys, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SERVER_API_KEY", "k")
    assert main(["serve", "--host", "0.0.0.0", "--model", "nothing"]) == 2
    assert "there is no model" in capsys.readouterr().err, "the address is no longer what is wrong"
