"""Run the gateway by hand: `python -m tests.gateway [--port N] [--latency SECONDS]`."""

import argparse
import contextlib
import shlex
import signal
import tempfile
from pathlib import Path

from tests.gateway import Gateway


def main() -> None:
    """Print what to export, then serve until Ctrl-C (or SIGTERM)."""
    parser = argparse.ArgumentParser(prog="python -m tests.gateway", description="A local Dataloop.")
    parser.add_argument("--port", type=int, default=0, help="port on loopback (default: a free one)")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds that each request waits")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (
        contextlib.suppress(KeyboardInterrupt),
        tempfile.TemporaryDirectory(prefix="dataloop-") as folder,
        Gateway(options.port, options.latency) as gateway,
    ):
        print(f"# A local Dataloop at {gateway.url}. Ctrl-C ends it. In another shell:")
        for name, value in gateway.environment(Path(folder)).items():
            print(f"export {name}={shlex.quote(value)}", flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
