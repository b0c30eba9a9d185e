"""A bulk run on Ray of a model that costs a fixed time: what 1, 2 and 4 replicas gain, and what they cost."""

import asyncio
import contextlib
import io
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from adapters.cli.ray.run import Replicas, predict_on_ray
from benchmarks.machine import Machine

REPLY = {
    "object": "chat.completion",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"},
    ],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
}


@dataclass(frozen=True, slots=True)
class Size:
    """How much is run.

    Attributes:
        items: of the larger run; the smaller one, a tenth of it, tells what a run costs in itself.
        seconds: of each answer; a replica waits for one at a time.
    """

    replicas: tuple[int, ...] = (1, 2, 4)
    items: int = 800
    seconds: float = 0.05


FULL = EMULATED = Size()
QUICK = Size(replicas=(2,), items=40)


def run(size: Size, here: Machine) -> dict[str, float]:
    """Seconds of both runs, and the share of the ideal speed that is left between the two."""
    figures = {}
    with tempfile.TemporaryDirectory() as name, waiting(size.seconds) as url:
        folder = Path(name)
        files = [folder / f"{i:05}.json" for i in range(size.items)]
        for i, file in enumerate(files):  # All different: equal ones are answered once.
            question = {"mimetype": "application/text", "value": f"Hello {i}"}
            file.write_text(json.dumps({"prompts": {"1": {"1": question}}}))
        for count in size.replicas:
            few = timed(files[: size.items // 10], count, url)
            many = timed(files, count, url)
            ideal = (size.items - size.items // 10) * size.seconds / count
            figures[f"ray.{count}.seconds"] = many
            figures[f"ray.{count}.start"] = few - size.items // 10 * size.seconds / count
            figures[f"ray.{count}.share_of_ideal"] = ideal / (many - few)
    return figures


def timed(files: list[Path], count: int, url: str) -> float:
    """Seconds of a run with so many replicas.

    Raises:
        AssertionError: an item has no answer.
    """
    configuration = {"base_url": url, "model_name": "fixed", "api": "openai", "max_concurrent": 1}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()) as told:
        out = Path(folder) / "answers.jsonl"
        replicas = Replicas(count, cpus=0.25)
        started = time.perf_counter()
        code = predict_on_ray(list(map(str, files)), "inference_endpoint", configuration, out, replicas)
        seconds = time.perf_counter() - started
    assert code == 0, told.getvalue()
    return seconds


@contextlib.contextmanager
def waiting(seconds: float) -> Iterator[str]:
    """The URL of a server that takes a fixed time for each answer."""

    async def answer(request: web.Request) -> web.Response:
        await asyncio.sleep(seconds)
        return web.json_response(REPLY)

    async def serve(started: "Future[Any]") -> None:
        stopping = asyncio.Event()
        application = web.Application()
        application.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        stop = lambda: loop.call_soon_threadsafe(stopping.set)  # noqa: E731
        loop = asyncio.get_running_loop()
        started.set_result((runner.addresses[0][1], stop))
        await stopping.wait()
        await runner.cleanup()

    started: Future[Any] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(serve(started)))
    thread.start()
    port, stop = started.result()
    try:
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        stop()
        thread.join()
