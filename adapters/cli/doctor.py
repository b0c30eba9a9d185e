"""`doctor`: what this machine has, what it lacks, and what to do about it."""

from __future__ import annotations

from adapters.cli.checks import CHECKS, Finding
from adapters.cli.output import printing

HEADERS = ("", "what", "found", "what to do")


def doctor() -> int:
    """Check this machine. Looks at packages, CPU kernels, GPU, memory, disk, tokens and the platform.

    Each line is good, or says what to do; the exit code is 1 where one is not good. Tokens are never shown.
    """
    bad = False
    table = []
    with printing() as output:
        for name, check in CHECKS.items():
            try:
                found = check()
            except Exception as error:  # Any exception of a broken installation is the check's result.
                found = Finding(f"{type(error).__name__}: {error}", "repair the installation: make setup")
            bad |= bool(found.remedy)
            table.append(("!!" if found.remedy else "ok", name, found.text, found.remedy or ""))
        output.table(HEADERS, table)
    return int(bad)
