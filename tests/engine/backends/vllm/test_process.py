"""How vLLM is started, watched and ended; with the stand-in, which takes no time to start."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from adapters.hugging import HuggingAdapter
from engine.backends.vllm import process
from engine.configuration import split
from engine.errors import ConfigurationError, LoadError
from tests.engine.backends.vllm.conftest import TINY_TALK, Engines
from tests.helpers.servers.vllm_api import VLLMApi
from tests.helpers.talk import ask

Noted = Callable[[], dict[str, Any]]
ROOT = Path(__file__).parents[4]


def gone(*pids: int) -> bool:
    """Whether processes end; a zombie has ended."""
    running = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    return not psutil.wait_procs([p for p in running if p.status() != psutil.STATUS_ZOMBIE], timeout=20)[1]


def arguments(noted: Noted) -> dict[str, str]:
    words = noted()["arguments"]
    return {
        word: following for word, following in zip(words, [*words[1:], ""], strict=True) if word[0] == "-"
    }


def test_options_become_arguments(engines: Engines, noted: Noted):
    engines(
        dtype="bfloat16",
        revision="main",
        trust_remote_code=False,
        quantization="fp8",
        max_model_len=128,
        tensor_parallel_size=2,
        pipeline_parallel_size=4,
        distributed_executor_backend="ray",
        gpu_memory_utilization=0.5,
        vllm_args=["--max-num-seqs", "64", "--enforce-eager"],
    )
    assert noted()["arguments"][:3] == [str(process.LAUNCHER), "serve", TINY_TALK]
    given = {
        "--host": "127.0.0.1",
        "--dtype": "bfloat16",
        "--revision": "main",
        "--quantization": "fp8",
        "--max-model-len": "128",
        "--tensor-parallel-size": "2",
        "--pipeline-parallel-size": "4",
        "--distributed-executor-backend": "ray",
        "--gpu-memory-utilization": "0.5",
        "--max-num-seqs": "64",
        "--load-format": "safetensors",
        "--logprobs-mode": "raw_logprobs",
        "--generation-config": "vllm",
        "--runner": "generate",
    }
    assert arguments(noted).items() >= given.items()
    assert not {"--trust-remote-code", "--tokenizer"} & set(arguments(noted))
    assert "--enforce-eager" in noted()["arguments"]


@pytest.mark.parametrize(
    ("cores", "own", "reserved"),
    [(2, None, "0"), (64, None, None), (None, None, "0"), (2, "1", "1")],
)
def test_of_few_cores_none_is_kept_from_computing_unless_the_user_says_so(
    cores: int | None,
    own: str | None,
    reserved: str | None,
    engines: Engines,
    noted: Noted,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    if own is not None:
        monkeypatch.setenv("VLLM_CPU_NUM_OF_RESERVED_CPU", own)
    engines()
    assert noted()["settings"].get("VLLM_CPU_NUM_OF_RESERVED_CPU") == reserved


def test_weights_among_the_artifacts_win(fake: str, noted: Noted, tiny_model: Path):
    adapter = HuggingAdapter(
        {"backend": "vllm", "model_name": "owner/elsewhere", "revision": "v2", "vllm_python": fake}
    ).load(tiny_model)
    try:
        assert noted()["arguments"][2] == str(tiny_model)
        assert "--revision" not in arguments(noted), "a folder has none"
    finally:
        adapter.engine.close()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"device": "cuda:1", "load_in_4bit": True}, "device and load_in_4bit is for backend: local"),
        ({"base_url": "http://127.0.0.1:1"}, "option 'base_url' is for a server elsewhere"),
        ({"vllm_args": ["--api-key=x"]}, "vllm_args may not have --api-key"),
        ({"vllm_args": ["--port", "1"]}, "vllm_args may not have --port"),
        ({"vllm_python": "/no/such/python"}, "vllm_python '/no/such/python' is not a program"),
        ({"vllm_python": None}, "pip install vllm"),
    ],
)
def test_what_cannot_apply_is_refused_before_the_start(
    options: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(process, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=said):
        HuggingAdapter(
            {"backend": "vllm", "model_name": TINY_TALK, "vllm_python": sys.executable} | options
        ).load()


def test_its_options_are_for_its_backend():
    with pytest.raises(ConfigurationError, match="option 'max_model_len' is for vLLM: set backend"):
        split({"model_name": "m", "max_model_len": 8})


def test_the_key_is_made_for_the_run_and_shown_to_nobody(engines: Engines, noted: Noted, caplog):
    caplog.set_level("DEBUG")
    first, key = engines(), noted()["key"]
    assert len(key) > 30
    assert first.process._get("/v1/models")[0] == 200
    for running in psutil.Process(first.process.pid).children(recursive=True):
        assert key not in " ".join(running.cmdline())
    first.process.key = "another"
    assert first.process._get("/v1/models")[0] == 401
    engines()
    assert noted()["key"] != key
    assert key not in caplog.text


def test_a_failed_start_shows_the_last_lines_of_its_log(
    engines: Engines, noted: Noted, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FAKE_VLLM_FAULT", "ValueError: no such quantization")
    with pytest.raises(LoadError) as raised:
        engines()
    assert "INFO loading weights\nValueError: no such quantization with the key <secret>" in str(raised.value)
    assert str(raised.value).endswith("exit status 3")
    assert gone(noted()["child"])


def test_the_start_is_said(engines: Engines, caplog, monkeypatch: pytest.MonkeyPatch, capsys):
    caplog.set_level("INFO")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    engines()
    assert "vLLM is ready after" in caplog.text
    assert "vLLM starts: 00:0" in capsys.readouterr().err


def test_it_ends_with_all_its_children(engines: Engines, noted: Noted):
    engine = engines()
    pids = engine.process.pid, noted()["pid"], noted()["child"]
    engine.close()
    assert gone(*pids)
    assert not engine.process.running


def test_it_does_not_outlive_a_killed_parent(fake: str, noted: Noted, monkeypatch: pytest.MonkeyPatch):
    """Started by a thread that has ended since, and hanging: asked to end, it does not."""
    monkeypatch.setenv("FAKE_VLLM_HANGS", "1")
    code = (
        "import sys, threading\n"
        "from engine.backends.vllm.process import VLLMProcess\n"
        "server = VLLMProcess(sys.argv[1], ['model'])\n"
        "thread = threading.Thread(target=server.start)\n"
        "thread.start(); thread.join()\n"
        "print(server.running, server.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, fake], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        running, supervisor = parent.stdout.readline().split()
        assert running == "True"
        pids = int(supervisor), noted()["pid"], noted()["child"]
        assert all(map(psutil.pid_exists, pids))
        parent.send_signal(signal.SIGKILL)
        assert gone(*pids)


def test_its_children_end_where_the_supervisor_is_killed(engines: Engines, noted: Noted):
    engine = engines()
    pids = noted()["pid"], noted()["child"]
    supervisor = psutil.Process(engine.process.pid)
    supervisor.kill()
    supervisor.wait(timeout=20)
    assert not engine.process.running
    assert gone(*pids)


def test_a_forked_process_does_not_end_it(engines: Engines):
    engine = engines()
    child = os.fork()
    if not child:
        engine.process.stop()
        os._exit(0)
    os.waitpid(child, 0)
    assert engine.process.running


def test_one_restart_then_the_conversations_are_listed(
    engines: Engines, noted: Noted, api: VLLMApi, monkeypatch: pytest.MonkeyPatch, caplog
):
    """A request that ends it is asked twice; others find it running again only if it has answered since."""
    engine = engines()
    poison = "What is 19 + 23?"
    genuine = VLLMApi.completions

    def completions(self: VLLMApi, body: dict[str, Any]) -> Any:
        if body["prompt"] == engine.prompter.encode(ask(poison).messages, ask(poison).options):
            os.kill(noted()["pid"], signal.SIGKILL)
        return genuine(self, body)

    monkeypatch.setattr(VLLMApi, "completions", completions)
    [answer] = engine.generate([ask(poison, max_new_tokens=4)])
    assert str(answer.error).startswith("vLLM has ended while it answered (exit status -9)")
    assert engine.process.starts == 2
    assert caplog.text.count("vLLM has ended: it is started again") == 1
    [answer] = engine.generate([ask("Hello!", max_new_tokens=4)])
    assert str(answer.error).startswith("vLLM has ended while it answered")
    assert engine.process.starts == 2, "nothing was answered since the last start"


def test_it_may_end_again_once_it_has_answered(engines: Engines, noted: Noted):
    engine = engines()
    for starts in (1, 2, 3):
        [answer] = engine.generate([ask("Hello!", max_new_tokens=4)])
        assert answer.error is None
        assert engine.process.starts == starts
        os.kill(noted()["pid"], signal.SIGKILL)


def test_what_was_given_is_not_asked_again(
    engines: Engines, noted: Noted, api: VLLMApi, monkeypatch: pytest.MonkeyPatch
):
    """A reader of deltas would get the beginning twice."""
    engine, came, genuine = engines(), threading.Event(), VLLMApi.completions

    def completions(self: VLLMApi, body: dict[str, Any]) -> Any:
        yield next(genuine(self, body))
        assert came.wait(20)
        os.kill(noted()["pid"], signal.SIGKILL)

    monkeypatch.setattr(VLLMApi, "completions", completions)
    texts = []
    for chunk in engine.stream([ask("My name is Ada.", max_new_tokens=8)]):
        texts.append(chunk.text)
        came.set()
    assert chunk.answer is not None
    # The stream may break before the process is seen to have ended, or after.
    assert re.match("vLLM (ended its answer early|has ended while it answered)", str(chunk.answer.error))
    assert "".join(texts)


def test_many_are_asked_at_a_time_unless_it_is_said(engines: Engines):
    assert engines().options.max_concurrent == 256
    assert engines(max_concurrent=3, timeout=7).options.max_concurrent == 3
