"""`serve`: a model over HTTP."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from adapters import registry
from adapters.cli.options import Model, Settings, named
from adapters.cli.output import printing
from engine.errors import ConfigurationError

# The environment variable of the key: unlike an argument, it is not in the list of processes.
KEY_VARIABLE = "SERVER_API_KEY"


def serve(
    model: Model = "tiny_talk",
    settings: Settings = None,
    host: Annotated[str, typer.Option(help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; 0 takes a free one.")] = 8000,
    api_key: Annotated[
        str | None, typer.Option(help=f"What clients have to send; by default {KEY_VARIABLE}, if it is set.")
    ] = None,
    open_to_all: Annotated[
        bool, typer.Option("--open-to-all", help="Serve other machines without a key, too.")
    ] = False,
    max_requests: Annotated[int, typer.Option(help="Answers that run and wait at a time.")] = 512,
) -> int:
    """Serve a model by OpenAI's routes over HTTP. Ctrl-C or SIGTERM ends it."""
    with printing():
        from adapters import server

        key = api_key if api_key is not None else os.environ.get(KEY_VARIABLE)
        # Before the model is loaded, which may take minutes.
        server.check_exposure(host, key, open_to_all)
        server.check_address(host, port)
        stem, configuration = named(model, settings)
        adapter = registry.load(stem, configuration)
        if not hasattr(adapter, "engine"):
            raise ConfigurationError(f"models/{stem}.py has no engine: extend adapters.hugging")
        server.serve(
            adapter,
            host=host,
            port=port,
            api_key=key,
            open_to_all=open_to_all,
            max_requests=max_requests,
        )
    return 0
