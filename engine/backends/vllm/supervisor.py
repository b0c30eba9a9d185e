"""Runs a command, and ends it and its children as soon as the process that started it is gone.

`python supervisor.py PARENT COMMAND…`, as the leader of a process group of its own. A parent that was killed
cannot end its children, and Linux' own signal for that (PR_SET_PDEATHSIG) is sent when the thread ends that
started them. This imports nothing of the package: it runs as a file.
"""

import contextlib
import os
import signal
import subprocess
import sys

# Seconds between two looks at the parent, and that are given to the command to end by itself.
INTERVAL, GRACE = 0.2, 3.0


def main(parent: int, command: list[str]) -> None:
    """Runs the command to its end, or to that of the process `parent`; then kills its whole group."""
    asked = False

    def ask(*_: object) -> None:
        nonlocal asked
        asked = True

    signal.signal(signal.SIGTERM, ask)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603
    while not _ended(process, INTERVAL) and not asked and os.getppid() == parent:
        pass
    if process.returncode is None:
        os.killpg(0, signal.SIGTERM)
        _ended(process, GRACE)
    with contextlib.suppress(OSError):  # Nobody reads it where the parent is gone.
        print(f"exit status {process.returncode}", flush=True)  # noqa: T201
    os.killpg(0, signal.SIGKILL)


def _ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
