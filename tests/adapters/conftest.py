"""A model on the local platform, made from a configuration alone."""

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from adapters import registry
from adapters.dataloop import ModelAdapter, PredictionError
from adapters.hugging import HuggingAdapter
from adapters.platform import remote
from engine.types import Request
from tests.fakes import FakeEngine

# What `asked` says to the item of the fixture `questions`, as `texts_on` has it.
ANSWERS = [("first", "And again! (3)"), ("first", "Hello! (1)"), ("second", "Grüß Gott! (1)")]


@pytest.fixture
def model_entity(project: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
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

    yield make
    # The SDK keeps weights by the model's name: the next test's model has that name, too.
    shutil.rmtree(Path(os.environ["DATALOOP_PATH"]) / "models", ignore_errors=True)


@pytest.fixture
def upload(dataset: Any, tmp_path: Path) -> Callable[[str, Any], Any]:
    """Uploads JSON (or bytes) as an item."""

    def make(name: str, content: Any) -> Any:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return dataset.items.upload(local_path=str(path), overwrite=True, raise_on_error=True)

    return make


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    """The address of a server, and what it was asked."""
    asked: list[str] = []

    class Counting(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Counting)
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


@pytest.fixture
def user_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A models folder of the user's own."""
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setattr(registry, "FOLDER", folder)
    return folder


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that failed is sent again at once."""
    monkeypatch.setattr(remote, "PAUSE", 0.0)


@pytest.fixture
def answering(model_entity: Callable[..., Any]) -> Callable[..., ModelAdapter]:
    """Makes the platform's adapter around an engine that answers what `reply` says."""
    entities: dict[str, Any] = {}

    def make(reply: Callable[[Request], str], name: str = "tiny", **configuration: Any) -> ModelAdapter:
        entities[name] = entities.get(name) or model_entity({"module_name": "tiny_talk"}, name)
        hugging = HuggingAdapter({"model_name": name, **configuration})
        hugging._engine = FakeEngine(reply)
        adapter = ModelAdapter()
        adapter.adapter = hugging
        # Its setter would write defaults to the platform.
        adapter._model_entity = entities[name]
        return adapter

    return make


@pytest.fixture
def adapter(answering: Callable[..., ModelAdapter]) -> ModelAdapter:
    """The platform's adapter around an engine that answers as `asked` does."""
    return answering(asked)


@pytest.fixture
def changing(answering: Callable[..., ModelAdapter]) -> ModelAdapter:
    """A second adapter of the same model, whose answers differ."""
    return answering(lambda request: "old")


def configured(folder: Path, **options: Any) -> dict:
    """The configuration of a model in a folder."""
    return {"module_name": "auto_causal_lm", "model_name": str(folder), "max_new_tokens": 8, **options}


def asked(request: Request) -> str:
    """An answer that tells what was asked last, and how many messages came before."""
    return f"{request.messages[-1].text}! ({len(request.messages)})"


def answers_on(item: Any) -> list[dict]:
    """The annotations of an item, as the platform has them."""
    return [annotation.to_json() for annotation in item.annotations.list()]


def texts_on(item: Any) -> list[tuple[str, str]]:
    """Prompt keys and texts of an item's annotations."""
    return sorted((a["metadata"]["system"]["promptId"], a["coordinates"]) for a in answers_on(item))


def listed(raised: pytest.ExceptionInfo[PredictionError]) -> list[str]:
    """Ids of the items that have no answer."""
    return [failure.item for failure in raised.value.failures]
