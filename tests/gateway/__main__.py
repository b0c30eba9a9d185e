"""Run the gateway by hand: `python -m tests.gateway --help` says how."""

import argparse
import contextlib
import math
import shlex
import signal
import tempfile
from pathlib import Path
from typing import Any

from tests.gateway import Gateway, store


def main() -> None:
    """Print what to export, then serve until Ctrl-C (or SIGTERM)."""
    parser = argparse.ArgumentParser(prog="python -m tests.gateway", description="A local Dataloop.")
    parser.add_argument("--port", type=int, default=0, help="port on loopback (default: a free one)")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds that each request waits")
    parser.add_argument("--faults", type=float, default=0.0, help="share of requests for items that fail")
    parser.add_argument("--clock", type=float, default=0.0, help="seconds that each date may be off")
    options = parser.parse_args()
    store.unsteady = options.clock
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (
        contextlib.suppress(KeyboardInterrupt),
        tempfile.TemporaryDirectory(prefix="dataloop-") as folder,
        Gateway(options.port, options.latency) as gateway,
    ):
        if options.faults:
            add_faults(gateway, options.faults)
        print(f"# A local Dataloop at {gateway.url}. Ctrl-C ends it. In another shell:")
        for name, value in gateway.environment(Path(folder)).items():
            print(f"export {name}={shlex.quote(value)}", flush=True)
        signal.pause()


def add_faults(gateway: Gateway, share: float) -> None:
    """A share of the requests for items fails: refused, for once, after it took effect, without an answer."""
    kinds: list[dict[str, Any]] = [{"status": 400}, {"status": 500}, {"when": "after"}, {"drop": True}]
    for kind in kinds:
        path = "^/items/.*/(stream|annotations)$|^/datasets/.*/query$"
        gateway.fail(path=path, times=math.inf, share=share / len(kinds), **kind)


if __name__ == "__main__":
    main()
