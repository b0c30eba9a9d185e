"""A contender in a process of its own, which is stopped while it does not answer."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

from benchmarks.own import ours
from benchmarks.workload import Answers, Conversation
from engine.backends.vllm.engine import VLLMEngine
from engine.loading import Loaded
from engine.options import EndpointOptions, LoadOptions, VLLMOptions

# The folder of a model, its dtype, and what a program needs besides.
Settings = Mapping[str, Any]
FOLDER = Path(__file__).parent
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "2",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_SERVER_DEV_MODE": "1",  # Only then may its prefix cache be emptied from outside.
}


class Guest:
    """A program of this folder, which is sent JSON lines and answers with others.

    Attributes:
        load_seconds: that it took to load the model, without the imports.
    """

    def __init__(self, python: str, program: str, settings: Settings) -> None:
        """Starts it, and waits until the model is loaded.

        Raises:
            RuntimeError: it has ended instead; the text has the end of its log.
        """
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(  # noqa: S603
            [python, str(FOLDER / f"{program}.py"), json.dumps(dict(settings))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=os.environ | ENVIRONMENT,
            start_new_session=True,
        )
        self.load_seconds = float(self._read()["load_seconds"])
        self._signal(signal.SIGSTOP)

    def answer(self, conversations: list[Conversation]) -> Answers:
        """Answers; a conversation's next turn is asked as soon as the one before is answered."""
        given = [[[turn.question, turn.length] for turn in conversation] for conversation in conversations]
        return list(self._ask({"conversations": given})["answers"])

    def reset(self) -> None:
        """Empties its cache."""
        self._ask({"reset": True})

    def close(self) -> None:
        """Ends it."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._log.close()

    def _ask(self, what: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        answer = self._read()
        self._signal(signal.SIGSTOP)
        return answer

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._log.seek(0)
            raise RuntimeError(f"a contender has ended: {self._log.read()[-3000:].decode(errors='replace')}")
        return dict(json.loads(line))

    def _signal(self, number: int) -> None:
        os.killpg(self._process.pid, number)


class VLLMBackend:
    """This repository's `backend: vllm`, over its text interface.

    Attributes:
        load_seconds: until it answers, with the imports of vLLM's server.
    """

    def __init__(self, python: str, settings: Settings) -> None:
        """Starts vLLM without compilation, with the model in a folder."""
        with mock.patch.dict(os.environ, ENVIRONMENT):
            started = time.perf_counter()
            self.engine = VLLMEngine(
                LoadOptions(model_name=settings["folder"]),
                VLLMOptions(vllm_python=python, vllm_args=("--enforce-eager",)),
                EndpointOptions(),
            )
            self.load_seconds = time.perf_counter() - started
        self._children = psutil.Process(self.engine.process.pid).children(recursive=True)
        self._stop()

    def answer(self, conversations: list[Conversation]) -> Answers:
        """Answers through the engine's contract, as the local engine is asked."""
        self._go()
        try:
            return ours(self.engine, conversations)
        finally:
            self._stop()

    def reset(self) -> None:
        """Empties its cache."""
        self._go()
        connection = http.client.HTTPConnection("127.0.0.1", self.engine.process.port)
        connection.request("POST", "/reset_prefix_cache")
        assert connection.getresponse().status == 200
        self._stop()

    def close(self) -> None:
        """Ends it."""
        self._go()
        self.engine.close()

    def _go(self) -> None:
        for child in self._children:
            child.resume()

    def _stop(self) -> None:
        for child in self._children:
            child.suspend()


# The contenders of a process of their own: the variable that names their interpreter, and how they start.
GUESTS: dict[str, tuple[str, Callable[[str, Settings], Guest | VLLMBackend]]] = {
    "vllm_eager": (
        "VLLM_PYTHON",
        lambda python, settings: Guest(python, "vllm_offline", {**settings, "eager": True}),
    ),
    "vllm_compiled": (
        "VLLM_PYTHON",
        lambda python, settings: Guest(python, "vllm_offline", {**settings, "eager": False}),
    ),
    "vllm_backend": ("VLLM_PYTHON", VLLMBackend),
    "openvino": (
        "OPENVINO_PYTHON",
        lambda python, settings: Guest(python, "openvino_offline", settings),
    ),
}


@contextlib.contextmanager
def guests(folder: str, loaded: Loaded, names: Sequence[str]) -> Iterator[dict[str, Guest | VLLMBackend]]:
    """Starts contenders with a model that it saves in a folder; those without an interpreter are left out."""
    loaded.model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    settings = {"folder": folder, "dtype": str(loaded.model.dtype).removeprefix("torch.")}
    with contextlib.ExitStack() as stack:
        started = {}
        for name in names:
            variable, start = GUESTS[name]
            if python := os.environ.get(variable):
                started[name] = start(python, settings)
                stack.callback(started[name].close)
            else:
                print(f"{name} is left out: {variable} names no Python that has it", file=sys.stderr)
        yield started
