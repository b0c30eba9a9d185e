"""`models`: lists the models."""

from __future__ import annotations

from adapters import model_file, registry
from adapters.cli.cache import size_in
from adapters.cli.output import printing

HEADERS = ("model", "size", "task", "here", "what it is")


def models() -> int:
    """List the models. Tells their sizes, tasks, and whether their weights are on this machine.

    Off a terminal, a line for each model with tabs between the cells.
    """
    with printing() as output:
        output.table(HEADERS, map(_row, registry.names()))
    return 0


def _row(stem: str) -> tuple[str, ...]:
    path = registry.FOLDER / f"{stem}.py"
    try:
        file = model_file.read(path)
    except (OSError, SyntaxError, ValueError) as error:
        return stem, "-", "-", "-", f"cannot be read ({error})"
    counted = file.size
    here = "-"
    if file.task == "server":
        here = "at a server"
    elif file.model_name:
        parameters = size_in(file.model_name)
        here = "no" if parameters is None else "yes"
        counted = counted or (short(parameters) if parameters else None)
    summary = file.summary or f"no docstring: say what it is in {path.name}"
    return stem, counted or "-", file.task, here, summary


def short(parameters: int) -> str:
    """A number of parameters as people write it: 0.9 M, 1.7 B."""
    value, unit = (parameters / 1e9, "B") if parameters >= 1e9 else (parameters / 1e6, "M")
    return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
