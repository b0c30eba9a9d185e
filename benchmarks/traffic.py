"""`python -m benchmarks.traffic ITEMS LATENCY SECONDS`: runs over the items of a local platform, by no model.

For a machine on which the platform runs, too: this is what it is busy with beside the model. Runs follow each
other until the process is ended.
"""

import contextlib
import signal
import sys
import time

import models
from benchmarks import platform
from tests.fakes import FakeEngine


def main(items: int, latency: float, seconds: float) -> None:
    """Answers the items again and again, in so many seconds each time, and waits in place of computing."""
    pause = seconds / platform.answers(items)

    def wait(request: object) -> str:
        time.sleep(pause)
        return "an answer of usual length"

    hugging = models.find("tiny_talk")({})
    hugging._engine = FakeEngine(wait)
    with platform.platform(latency):
        stored = platform.stored([platform.prompt_item(i) for i in range(items)])
        adapter = platform.model_adapter(hugging)
        print("ready", flush=True)
        while True:
            adapter.predict_items(stored)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
