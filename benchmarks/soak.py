"""`python -m benchmarks.soak`: a long run over a platform that fails now and then, and its memory.

Then runs over a few items, two at once, each killed at a random moment, and one that resumes them. The model
is a stand-in that answers at once: what is measured is the way of the items.
"""

import argparse
import json
import os
import random
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import dtlpy as dl

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "memory.svg"
# Seconds between two looks at the memory.
INTERVAL = 0.25
# More are no other case.
KILLED_ITEMS = 2000


@dataclass(slots=True)
class Memory:
    """How much memory this process has, looked at while it is entered.

    Attributes:
        megabytes: with the seconds at which they were seen.
    """

    megabytes: list[tuple[float, float]] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread = field(init=False)

    def __enter__(self) -> "Memory":
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        started = time.monotonic()
        while not self._ended.wait(INTERVAL):
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            seen = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
            self.megabytes.append((time.monotonic() - started, seen))


def run(items: int, faults: float) -> tuple[Memory, int]:
    """Answers so many items of a platform where a share of the requests fails.

    Returns:
        The memory, and how many items were listed as failed.

    Raises:
        AssertionError: an item is neither answered once nor listed, or one has answers twice.
    """
    from adapters.dataloop import PredictionError
    from adapters.hugging import HuggingAdapter
    from benchmarks import platform
    from tests.fakes import FakeEngine

    hugging = HuggingAdapter({"model_name": "stand-in"})
    hugging._engine = FakeEngine(lambda request: request.messages[-1].text)
    listed: set[str] = set()
    with platform.platform(faults=faults):
        dataset = uploaded(items)
        adapter = platform.model_adapter(hugging)
        with Memory() as memory:
            try:
                adapter.predict_dataset(dataset)
            except PredictionError as error:
                listed = {failure.item for failure in error.failures}
        check(dataset, listed, items)
    return memory, len(listed)


def killed(items: int, kills: int, seed: int = 0) -> int:
    """Kills so many runs over the same items, two at once, on a platform whose clock is up to 2 s off.

    Returns:
        How many items had not one whole answer to each question before a last run resumed.

    Raises:
        AssertionError: an item has not afterwards.
    """
    from benchmarks import killing, platform

    with platform.platform(latency=0.01, clock=2.0):
        dataset = uploaded(items)
        killing.run(dataset.id, kills, longest=0.5 + items / 200, chance=random.Random(seed))
        left = len(torn(dataset))
        killing.adapter("resumed").predict_dataset(dataset, resume=True)
        still = torn(dataset)
    assert not still, f"{len(still)} items have not one whole answer to each question: {sorted(still)[:5]}"
    return left


def torn(dataset: "dl.Dataset") -> set[str]:
    """Items that have not just the two answers of one upload."""
    found: dict[str, list[tuple[str, int]]] = {item["id"]: [] for item in everything(dataset, "items")}
    for annotation in everything(dataset, "annotations"):
        mark = annotation["metadata"]["user"]["upload"]
        found[annotation["itemId"]].append((mark["id"], mark["number"]))
    return {
        item
        for item, parts in found.items()
        if sorted(number for _, number in parts) != [0, 1] or len({upload for upload, _ in parts}) != 1
    }


def uploaded(items: int) -> "dl.Dataset":
    """A dataset with so many prompt items of two questions; the SDK's own upload would take minutes."""
    import dtlpy as dl
    from urllib3 import PoolManager

    dataset = dl.projects.create(project_name="soak").datasets.create(dataset_name="items")
    pool = PoolManager(maxsize=16)
    text = "application/text"

    def upload(number: int) -> None:
        turns = {str(turn): {"mimetype": text, "value": f"{number}, {turn}"} for turn in range(2)}
        content = {"shebang": "dataloop", "metadata": {"dltype": "prompt"}, "prompts": {"1": turns}}
        name = f"{number:05}.json"
        fields: dict[str, Any] = {"path": f"/{name}", "type": "file", "file": (name, json.dumps(content))}
        url = f"{dl.client_api.base_gate_url}/datasets/{dataset.id}/items?mode=overwrite"
        assert pool.request("POST", url, fields=fields, headers=dl.client_api.auth).status == 200

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(upload, range(items)))
    return dataset


def check(dataset: "dl.Dataset", listed: set[str], items: int) -> None:
    """Raises AssertionError unless each item has its two answers, or is listed and has two or none."""
    there = {item["id"] for item in everything(dataset, "items")}
    assert len(there) == items
    answers = Counter(annotation["itemId"] for annotation in everything(dataset, "annotations"))
    missing = {item for item in there - listed if answers[item] != 2}
    assert not missing, f"{len(missing)} items are neither answered once nor listed: {sorted(missing)[:5]}"
    twice = {item for item in listed if answers[item] not in (0, 2)}
    assert not twice, f"{len(twice)} listed items have a part of their answers: {sorted(twice)[:5]}"


def everything(dataset: "dl.Dataset", resource: str) -> list[dict[str, Any]]:
    """All items or annotations of a dataset, whatever fails on the way."""
    from adapters.platform import remote
    from adapters.platform.errors import RemoteError

    while True:
        try:
            found = remote.pages(dataset.id, {"resource": resource, "filter": {}})
            return [record for page in found for record in page]
        except RemoteError:
            continue


def picture(memory: Memory, title: str) -> str:
    """The curve as an SVG file."""
    width, height, left, bottom = 720, 280, 60, 40
    longest = memory.megabytes[-1][0]
    most = 1.25 * max(seen for _, seen in memory.megabytes)

    def place(second: float, megabytes: float) -> tuple[float, float]:
        x = left + (width - left - 20) * second / longest
        y = height - bottom - (height - bottom - 40) * megabytes / most
        return round(x, 1), round(y, 1)

    line = " ".join(f"{x},{y}" for x, y in (place(*point) for point in memory.megabytes))
    marks = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, bottom_line = place(share * longest, 0)
        _, y = place(0, share * most)
        marks += [
            f'<text x="{x}" y="{bottom_line + 18}" text-anchor="middle">{share * longest:.0f} s</text>',
            f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{share * most:.0f} MB</text>',
            f'<line x1="{left}" y1="{y}" x2="{width - 20}" y2="{y}" stroke="#ddd"/>',
        ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif"'
            ' font-size="12">',
            f'<rect width="{width}" height="{height}" fill="white"/>',
            f'<text x="{width / 2}" y="20" text-anchor="middle" font-size="14">{title}</text>',
            *marks,
            f'<polyline points="{line}" fill="none" stroke="#06c" stroke-width="1.5"/>',
            "</svg>\n",
        ]
    )


def main(words: list[str] | None = None) -> None:
    """Runs it, prints what came of it, and draws the picture of a whole run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description="A long run with faults.")
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--faults", type=float, default=0.01, help="share of the requests that fail")
    parser.add_argument("--kills", type=int, default=20, help="runs that are killed, of those two at once")
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        # Read at import.
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": folder, "DATALOOP_PATH": folder}
        memory, listed = run(arguments.items, arguments.faults)
        few = min(arguments.items, KILLED_ITEMS)
        left = killed(few, arguments.kills)
    seconds, last = memory.megabytes[-1]
    title = f"{arguments.items:,} items, {arguments.faults:.0%} of the requests fail: memory of the process"
    print(f"{arguments.items - listed} items answered once, {listed} listed, in {seconds:.0f} s")
    half = memory.megabytes[len(memory.megabytes) // 2][1]
    print(f"memory: {half:.0f} MB half-way, {last:.0f} MB at the end")
    print(f"{few} items, {arguments.kills} runs killed, two at once: {left} items had not each answer once;")
    print("after another run had resumed them, all had")
    if arguments.items >= 20_000:
        PICTURE.write_text(picture(memory, title))
        print(f"drawn in {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
