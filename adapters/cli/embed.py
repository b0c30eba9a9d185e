"""`embed`: texts in, vectors out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from adapters.cli.options import Model, Settings, loaded
from adapters.cli.output import printing
from engine.errors import ConfigurationError

STDIN = "-"


def embed(
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="Texts; - reads a text a line.")],
    model: Model = "tiny_talk",
    settings: Settings = None,
    kind: Annotated[
        str | None, typer.Option(help='"query", "document" or another prompt of the model.')
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.npy", help="Write a float32 array (texts, dim) there.")
    ] = None,
) -> int:
    """Embed texts. Prints a line of JSON with the text and its vector for each; --out writes one array."""
    with printing() as output:
        if out is not None and out.suffix != ".npy":
            raise ConfigurationError(f"--out {str(out)!r} is not a .npy file: numpy's form is written")
        given = [line for text in texts for line in (_stdin() if text == STDIN else [text])]
        if not given:
            raise ConfigurationError("there is no text to embed: give one, or lines of standard input")
        if "" in given:
            raise ConfigurationError(
                f"text {given.index('') + 1} is empty, and has no embedding: leave it out"
            )
        vectors = loaded(model, settings).encode(given, kind)
        if out is None:
            for text, vector in zip(given, vectors, strict=True):
                output.write(output.json({"text": text, "embedding": vector.tolist()}) + "\n")
            return 0
        import numpy as np

        try:
            np.save(out, vectors)
        except OSError as error:
            raise ConfigurationError(f"--out {str(out)!r} cannot be written ({error.strerror})") from None
    return 0


def _stdin() -> list[str]:
    return [line for line in sys.stdin.read().splitlines() if line.strip()]
