"""The entry point of a server on the platform: a service whose process answers HTTP on port 3000."""

import os
from collections.abc import Mapping
from typing import Any

import dtlpy as dl

from adapters import registry
from adapters.server import serve_in_background
from engine.errors import ConfigurationError

# The platform forwards requests for the app's route to this port.
PORT = 3000


class ModelServer(dl.BaseServiceRunner):
    """Serves one model by OpenAI's routes. Who may ask is the platform's to check: its login is in front."""

    def __init__(self, configuration: Mapping[str, Any]) -> None:
        """Loads the model and starts to listen, at the port in the environment variable PORT or at 3000.

        Args:
            configuration: of the model, with `module_name`.

        Raises:
            ConfigurationError: no `module_name`, no such model file, or an invalid option.
            LoadError: weights that cannot be loaded.
        """
        name = configuration.get("module_name")
        if not name:
            raise ConfigurationError("the configuration has no module_name: set it to a file of models/")
        adapter = registry.load(name, configuration)
        self.port = int(os.environ.get("PORT", PORT))
        serve_in_background(adapter, host="0.0.0.0", port=self.port)  # noqa: S104 - of a container.

    def status(self) -> str:
        """Says that the server runs. A service has to have a function."""
        return f"listening on port {self.port}"
