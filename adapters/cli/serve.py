"""The command `serve`: a model over HTTP."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from adapters import registry
from adapters.server import check_exposure
from adapters.server import serve as run
from engine.errors import ConfigurationError

# The environment variable of the key: unlike an argument, it is not in the list of processes.
KEY_VARIABLE = "SERVER_API_KEY"


def serve(
    model: str = "tiny_talk",
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    open_to_all: bool = False,
    max_requests: int = 512,
    configuration: Mapping[str, Any] | None = None,
) -> None:
    """Loads a model and serves it until it is told to stop.

    Args:
        model: a file of models/.
        api_key: as `adapters.server.serve`; the environment variable SERVER_API_KEY by default.
        configuration: options of the model.

    Raises:
        ConfigurationError: as `adapters.server.serve`; no such model, an invalid option, or a model file with
            no engine.
        LoadError: weights that cannot be loaded.
    """
    key = api_key if api_key is not None else os.environ.get(KEY_VARIABLE)
    check_exposure(host, key, open_to_all)  # Before the model is loaded, which may take minutes.
    adapter = registry.load(model, configuration)
    if not hasattr(adapter, "engine"):
        raise ConfigurationError(f"models/{registry.stem(model)}.py has no engine: extend adapters.hugging")
    run(
        adapter,
        host=host,
        port=port,
        api_key=key,
        open_to_all=open_to_all,
        max_requests=max_requests,
    )
