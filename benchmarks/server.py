"""The server beside `transformers serve`, and vLLM's where VLLM_PYTHON names a Python that has it."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import torch

from benchmarks import models, peers, workload
from benchmarks.guests.guest import ENVIRONMENT
from benchmarks.machine import Machine
from benchmarks.rounds import interleave, ratio
from benchmarks.workload import Turn
from engine.backends.local import LocalEngine
from engine.backends.vllm.process import LAUNCHER
from engine.options import GenerationOptions
from engine.types import Answer, Request

# Seconds in which a server has to start.
STARTS = 180
# The number of clients at which the goals are measured.
MANY = 32


@dataclass(frozen=True, slots=True)
class Size:
    """How much is run.

    Attributes:
        clients: numbers of clients that ask at a time.
        requests: that each client sends, one after another; more clients than `MANY` send one.
        shorten: divides the lengths of questions and answers.
    """

    rounds: int = 2
    clients: tuple[int, ...] = (1, 8, MANY, 128)
    requests: int = 2
    shorten: int = 1
    changes: dict[str, int] = field(default_factory=dict)


FULL = EMULATED = Size()
QUICK = Size(rounds=1, clients=(1, 8, MANY), requests=1, shorten=4, changes={"num_hidden_layers": 8})

# What each client asks.
Clients = list[list[Turn]]


@dataclass(slots=True)
class Run:
    """What the clients of a server have seen.

    Attributes:
        first: seconds from each request to the first text of its answer.
        between: seconds between two texts of an answer.
    """

    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)


# Has one contender answer what the clients ask.
Contender = Callable[[Clients], Run]


def run(size: Size, here: Machine) -> dict[str, float]:
    """Tokens per second and seconds of each contender at each number of clients, and what they compare to.

    Raises:
        AssertionError: an answer of another length than was asked for.
    """
    loaded = models.load("L", torch.float32, size.changes)
    vocabulary = loaded.model.config.vocab_size
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
        servers = {
            name: stack.enter_context(serving(command, folder)) for name, command in commands(folder).items()
        }
        for server in servers.values():
            server.wait()
        engine = LocalEngine(loaded)
        # In a thread beside the main one, as the server has it: OpenMP's threads wait otherwise there.
        thread = stack.enter_context(ThreadPoolExecutor(1))
        contenders: dict[str, Contender] = {name: server.run for name, server in servers.items()}
        contenders["engine"] = lambda asked: thread.submit(directly, engine, asked).result()
        for contender in contenders.values():
            contender(questions(size.clients[0], size, vocabulary, seed=size.rounds))
        figures: dict[str, float] = {}
        for count in size.clients:
            figures |= _compared(
                [questions(count, size, vocabulary, seed) for seed in range(size.rounds)], contenders
            )
    return figures


def _compared(asked: list[Clients], contenders: dict[str, Contender]) -> dict[str, float]:
    """Figures of the contenders. Each round has other questions, for prefixes of answered ones are cached."""
    count = len(asked[0])
    answering = {name: _by_rounds(contender, asked) for name, contender in contenders.items()}
    times = interleave(answering, len(asked), f"server, {count} clients")
    tokens = sum(turn.length for turns in asked[0] for turn in turns)
    figures = {}
    for name, timed in times.items():
        figures[f"{name}.tokens_per_second"] = tokens / timed.median
        for what, seconds in {
            "first_token": timed.result.first,
            "between_tokens": timed.result.between,
        }.items():
            if seconds:
                figures[f"{name}.{what}_p50"] = statistics.median(seconds)
                figures[f"{name}.{what}_p99"] = percentile(seconds, 0.99)
    figures = {f"server.{count}.{key}": value for key, value in figures.items()}
    if count == MANY:
        figures["server.share_of_engine"] = ratio(times["engine"], times["ours"])
        figures["server.vs_transformers_serve"] = ratio(times["transformers_serve"], times["ours"])
        if "vllm" in times:
            figures["server.vs_vllm"] = ratio(times["vllm"], times["ours"])
        theirs, own = (
            figures[f"server.{count}.{name}.first_token_p99"] for name in ("transformers_serve", "ours")
        )
        figures["server.first_token_p99"] = own / theirs
    return figures


def _by_rounds(answer: Contender, asked: list[Clients]) -> Callable[[], Run]:
    """Answers the next of these at each call."""
    rounds = iter(asked)
    return lambda: answer(next(rounds))


def commands(folder: str) -> dict[str, list[str]]:
    """The command of each server, to which its port is added."""
    settings = peers.CONTINUOUS
    serve = [sys.executable, "-m", "transformers.cli.transformers", "serve", folder, "--continuous-batching"]
    serve += ["--device", "cpu", "--dtype", "float32", "--cb-block-size", str(settings["page_size"])]
    serve += ["--cb-max-batch-tokens", str(settings["max_batch_tokens"]), "--cb-num-blocks", "2048", "--port"]
    ours = [sys.executable, "-m", "adapters", "serve", "--model", "auto_causal_lm"]
    ours += ["--set", f"model_name={folder}", "--set", "dtype=float32", "--port"]
    found = {"ours": ours, "transformers_serve": serve}
    if python := os.environ.get("VLLM_PYTHON"):
        # By default it would compute a float32 model in half precision.
        serve = [python, str(LAUNCHER), "serve", folder, "--dtype", "float32"]
        found["vllm"] = [*serve, "--host", "127.0.0.1", "--port"]
    return found


class Server:
    """A server in a process of its own, which is stopped while it is not asked."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, model: str, log: Path) -> None:
        self._process = process
        self._url = f"http://127.0.0.1:{port}"
        self._model = model
        self._log = log

    def wait(self) -> None:
        """Waits until it answers, and stops it.

        Raises:
            RuntimeError: it has ended, or does not start in time.
        """
        deadline = time.monotonic() + STARTS
        while True:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"{self._url}/health", timeout=5)  # noqa: S310
                break
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"a server does not start: {self._log.read_text()[-2000:]}")
            time.sleep(0.2)
        self._signal(signal.SIGSTOP)

    def run(self, asked: Clients) -> Run:
        """Has all clients ask at a time, each one request after another."""
        self._signal(signal.SIGCONT)
        try:
            return asyncio.run(self._run(asked))
        finally:
            self._signal(signal.SIGSTOP)

    def _signal(self, number: int) -> None:
        os.killpg(self._process.pid, number)  # vLLM computes in a process of its own.

    async def _run(self, asked: Clients) -> Run:
        run = Run()
        connections = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=600)
        async with aiohttp.ClientSession(
            connector=connections, timeout=timeout, read_bufsize=2**20
        ) as session:
            await asyncio.gather(*(self._client(session, turns, run) for turns in asked))
        return run

    async def _client(self, session: aiohttp.ClientSession, turns: list[Turn], run: Run) -> None:
        for turn in turns:
            body = {
                "model": self._model,
                "messages": [{"role": "user", "content": workload.words(turn.question)}],
                "max_tokens": turn.length,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            last, came, usage = time.perf_counter(), [], None
            async with session.post(f"{self._url}/v1/chat/completions", json=body) as response:
                assert response.status == 200, await response.text()
                async for line in response.content:
                    if not line.startswith(b"data: {"):
                        continue
                    event = json.loads(line[6:])
                    usage = event.get("usage") or usage
                    if any((choice.get("delta") or {}).get("content") for choice in event["choices"]):
                        now = time.perf_counter()
                        came.append(now - last)
                        last = now
            assert usage is None or usage["completion_tokens"] == turn.length, usage
            run.first.append(came[0])
            run.between += came[1:]


@contextlib.contextmanager
def serving(command: list[str], folder: str) -> Iterator[Server]:
    """A server of a command, at a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = Path(folder) / f"{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603
            [*command, str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | ENVIRONMENT,
            start_new_session=True,
        )
    try:
        yield Server(process, port, "auto_causal_lm" if "adapters" in command else folder, log)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def directly(engine: LocalEngine, asked: Clients) -> Run:
    """The engine itself: each client's next request follows its last answer."""
    left = [list(turns) for turns in asked]

    def request(turn: Turn) -> Request:
        return Request((turn.message,), GenerationOptions(max_new_tokens=turn.length, temperature=0))

    def follow(index: int, answer: Answer) -> Request | None:
        assert answer.error is None, answer.error
        return request(left[index].pop(0)) if left[index] else None

    for _ in engine.stream([request(turns.pop(0)) for turns in left], follow):
        pass
    return Run()


def questions(count: int, size: Size, vocabulary: int, seed: int) -> Clients:
    """What each of so many clients asks; none asks what another one has asked, or with another seed."""
    requests = size.requests if count <= MANY else 1
    own = 1000 * count + seed  # Else these begin as those of fewer clients do, and the server keeps answers.
    given: list[Any] = workload.conversations(count, requests, vocabulary, size.shorten, own)
    return given


def percentile(values: list[float], share: float) -> float:
    """The value below which a share of them lies."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
