"""`export`: corrected prompt items in, training data out."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from adapters.cli.output import printing


class Form(StrEnum):
    """The forms of `adapters.items.training`, which is imported when it runs."""

    CHOSEN_REJECTED = "chosen_rejected"
    SFT = "sft"


def export(
    items: Annotated[
        list[str],
        typer.Argument(metavar="ITEMS...", help="Prompt items with annotations as JSON files, or folders."),
    ],
    form: Annotated[
        Form,
        typer.Option("--format", help="Pairs of answers (DPO) or conversations (SFT), as trl reads them."),
    ],
    out: Annotated[str, typer.Option(metavar="FILE.jsonl", help="The file to write.")],
) -> int:
    """Write answers that people have corrected as training data. They are lines of JSON."""
    with printing() as output:
        from adapters.evaluation.answering import read_items
        from adapters.items.training import write

        found = write(read_items(items), form.value, Path(out))
        output.write("".join(f"{note}\n" for note in [*found.notes(), f"written to {out}"]))
    return 0
