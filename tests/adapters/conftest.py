"""A model on the local platform, made from a configuration alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def model_entity(project: Any, tmp_path: Path) -> Callable[..., Any]:
    """Makes a `dl.Model` with a configuration, by way of a published app, as the platform's users do."""

    def make(configuration: dict, name: str = "tiny") -> Any:
        folder = tmp_path / "app" / name
        folder.mkdir(parents=True)
        manifest = {
            "name": f"{name}-app",
            "displayName": name,
            "version": "0.1.0",
            "scope": "project",
            "components": {
                "modules": [
                    {
                        "name": "adapter",
                        "entryPoint": "adapters/dataloop.py",
                        "className": "ModelAdapter",
                        "initInputs": [{"type": "Model", "name": "model_entity"}],
                        "functions": [],
                    }
                ],
                "models": [
                    {
                        "name": name,
                        "moduleName": "adapter",
                        "status": "pre-trained",
                        "configuration": configuration,
                        "inputType": "text",
                        "outputType": "text",
                        "metadata": {},
                    }
                ],
            },
        }
        (folder / "dataloop.json").write_text(json.dumps(manifest))
        dpk = project.dpks.publish(manifest_filepath=str(folder / "dataloop.json"), local_path=str(folder))
        project.apps.install(dpk)
        return project.models.get(model_name=name)

    return make


@pytest.fixture
def upload(dataset: Any, tmp_path: Path) -> Callable[[str, Any], Any]:
    """Uploads JSON (or bytes) as an item."""

    def make(name: str, content: Any) -> Any:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return dataset.items.upload(local_path=str(path), overwrite=True, raise_on_error=True)

    return make
