"""`new`: adds a model file for a model of the hub, with its manifest entry and, where possible, its test."""

from __future__ import annotations

from typing import Annotated

import typer

from adapters import new_model
from adapters.cli.cache import configuration_of
from adapters.cli.output import printing


def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The file's name in models/, as smollm2_360m.")],
    hub_id: Annotated[str, typer.Option("--from", metavar="HUB_ID", help="The model, as owner/name.")],
) -> int:
    """Add a model: writes its file in models/ and the manifest.

    Where the model's configuration is on this machine, it is checked first, and gives embeddings_size and the
    line in tests/test_models.py, which else are left to you. Nothing is downloaded.
    """
    with printing() as output:
        new_model.add(name, hub_id, configuration_of(hub_id), output.write)
    return 0
