"""Builds the app's manifest, dataloop.json: one module, its compute, and a model entry per model file."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from adapters import model_file, registry
from engine.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[2]
NAME = "huggingface-adapter"
VERSION = "0.1.0"
ENTRY_POINT = "adapters/dataloop.py"
MODULE = "model-adapter"
# The same module on pods with a GPU, for models of at least so many parameters.
GPU_MODULE, GPU_PARAMETERS = "model-adapter-gpu", 3e9
NODE = "answer-prompt-items"
SERVER_ENTRY_POINT = "adapters/dataloop_server.py"
SERVER = "model-server"
# What a server needs besides requirements.txt.
SERVER_REQUIREMENTS = ("fastapi", "uvicorn", "prometheus-client")
# What the Dockerfile starts from, and its sibling with the GPU's driver libraries.
RUNNER_IMAGE = "hub.dataloop.ai/dtlpy-runner-images/cpu:python3.12_opencv"
GPU_IMAGE = "hub.dataloop.ai/dtlpy-runner-images/gpu:python3.12_cuda11.8_opencv"

# Inputs of the functions with the platform's types.
_ITEMS = {"items": "Item[]"}
_DATASET = {"dataset": "Dataset", "filters": "Json"}


def build(
    names: Iterable[str] | None = None,
    entry_point: str = ENTRY_POINT,
    version: str = VERSION,
    server: str | None = None,
) -> dict[str, Any]:
    """The manifest as JSON.

    Args:
        names: the model files to register; all of them by default.
        entry_point: the file with the class `ModelAdapter`, relative to the repository.
        version: three numbers with dots.
        server: a model file that a service of the app serves over HTTP as long as the app is installed.

    Raises:
        ConfigurationError: no such model or entry point, a model named twice, or a model file that cannot
            be read.
    """
    path = (ROOT / entry_point).resolve()
    if not path.is_file() or not path.is_relative_to(ROOT):
        raise ConfigurationError(f"there is no entry point {entry_point!r}: name a file of the repository")
    entry = path.relative_to(ROOT).as_posix()
    return {
        "name": NAME,
        "displayName": "Hugging Face adapter",
        "description": "Hugging Face language models: answers to prompt items, and embeddings of texts.",
        "version": version,
        "scope": "project",
        "attributes": {
            "Provider": "Hugging Face",
            "Category": "Model",
            "Gen AI": "LLM",
            "NLP": ["Conversational", "Embeddings"],
            "Media Type": ["Text"],
            "Hub": ["Hugging Face"],
        },
        "components": {
            "computeConfigs": [
                _compute("cpu", "regular-m", RUNNER_IMAGE),
                _compute("gpu", "gpu-t4", GPU_IMAGE),
            ],
            "modules": [_module(MODULE, entry, "cpu"), _module(GPU_MODULE, entry, "gpu"), _server_module()],
            "models": [_model(stem) for stem in _stems(names)],
            "pipelineNodes": [_node()],
        }
        | ({} if server is None else _service(registry.resolve_name(server))),
    }


def dumps(manifest: dict[str, Any]) -> str:
    """The text of dataloop.json."""
    return json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"


def _compute(name: str, pod: str, image: str) -> dict[str, Any]:
    return {
        "name": name,
        # The first call after a start also downloads the weights.
        "executionTimeout": 3 * 60 * 60,
        "runtime": {
            "podType": pod,
            "concurrency": 1,
            "runnerImage": image,
            # embed_dataset waits for executions of this service: it gets a second pod.
            "autoscaler": {"type": "rabbitmq", "minReplicas": 0, "maxReplicas": 2, "queueLength": 1},
            "preemptible": False,
        },
    }


def _node() -> dict[str, Any]:
    """The node of a pipeline that answers prompt items; its ports are those of the function."""
    return {
        "name": NODE,
        "displayName": "Answer prompt items",
        "description": "Answers prompt items with a model of the app; gives the items and the answers.",
        "scope": "node",
        "categories": ["models"],
        "invoke": {"type": "function", "namespace": f"{NAME}.{MODULE}.predict_items"},
    }


def _module(name: str, entry_point: str, compute: str) -> dict[str, Any]:
    return {
        "name": name,
        "entryPoint": entry_point,
        "className": "ModelAdapter",
        "computeConfig": compute,
        "initInputs": [_port("model_entity", "Model")],
        "integrations": ["dl-huggingface-api-key"],
        "functions": [
            _function(
                "predict_items", "Answers prompt items.", _ITEMS, _ITEMS | {"annotations": "Annotation[]"}
            ),
            _function(
                "predict_dataset", "Answers prompt items of a dataset that a filter selects.", _DATASET
            ),
            _function(
                "create_prompt_items",
                "Makes prompt items of text items of a dataset that a filter selects, by prompt_template.",
                _DATASET,
                {"dataset": "Dataset"},
            ),
            _function(
                "evaluate_model",
                "Answers items that people have answered, judges the answers and calibrates the confidence.",
                {"model": "Model"} | _DATASET,
                {"model": "Model", "dataset": "Dataset"},
            ),
            _function(
                "embed_items",
                "Stores embeddings of items.",
                _ITEMS,
                _ITEMS | {"features": "Json"},
            ),
            _function(
                "embed_dataset", "Stores embeddings of items of a dataset that a filter selects.", _DATASET
            ),
        ],
    }


def _server_module() -> dict[str, Any]:
    return {
        "name": SERVER,
        "entryPoint": SERVER_ENTRY_POINT,
        "className": "ModelServer",
        "computeConfig": "cpu",
        "config": {"isCustomServer": True},
        "initInputs": [_port("configuration", "Json")],
        "integrations": ["dl-huggingface-api-key"],
        "functions": [_function("status", "Says that the server runs.", {}, {"status": "String"})],
    }


def _service(stem: str) -> dict[str, Any]:
    """A panel, which gives the app its route, and the service behind it: one pod that always runs."""
    autoscaler = {"type": "rabbitmq", "minReplicas": 1, "maxReplicas": 1, "queueLength": 1}
    runtime = _compute("cpu", "regular-m", RUNNER_IMAGE)["runtime"] | {"autoscaler": autoscaler}
    service = {
        "name": SERVER,
        "moduleName": SERVER,
        "panelNames": [SERVER],
        "initParams": {"configuration": _model(stem)["configuration"]},
        "runtime": runtime,
    }
    return {
        "panels": [{"name": SERVER, "supportedSlots": [], "conditions": {}}],
        "services": [service],
    }


def _function(
    name: str, description: str, takes: Mapping[str, str], gives: Mapping[str, str] | None = None
) -> dict[str, Any]:
    return {
        "name": name,
        "displayName": name.replace("_", " ").capitalize(),
        "description": description,
        "input": [_port(*port) for port in takes.items()],
        "output": [_port(*port) for port in (gives or {}).items()],
    }


def _port(name: str, kind: str) -> dict[str, str]:
    return {"name": name, "type": kind}


def _stems(names: Iterable[str] | None) -> list[str]:
    """The names of the chosen model files, in the given order; of all by default."""
    chosen = registry.names() if names is None else [registry.resolve_name(name.strip()) for name in names]
    if not chosen or len(set(chosen)) < len(chosen):
        raise ConfigurationError(
            f"no model is named, or one twice: name some of {', '.join(registry.names())}"
        )
    return chosen


def _model(stem: str) -> dict[str, Any]:
    adapter = registry.find(stem)
    weights = getattr(adapter, "model_name", None)
    configuration: dict[str, Any] = {"module_name": f"models.{stem}"}
    # A local folder does not exist on other machines: there the model file's own model_name is used.
    if weights and not Path(weights).is_absolute() and not (ROOT / weights).exists():
        configuration["model_name"] = weights
    configuration |= getattr(adapter, "defaults", {})
    embeds = getattr(adapter, "task", "generate") == "embed"
    return {
        "name": stem.replace("_", "-"),
        "moduleName": GPU_MODULE if _parameters(stem) >= GPU_PARAMETERS else MODULE,
        "scope": "project",
        "status": "pre-trained",
        "description": _description(stem),
        "tags": ["huggingface", "embedding" if embeds else "llm"],
        "labels": [] if embeds else ["q"],
        "inputType": "text",
        "outputType": "embedding" if embeds else "text",
        "configuration": configuration,
        "metadata": {},
    }


def _parameters(stem: str) -> float:
    """The number of a model's parameters that its file tells; 0 where it does not, or a server answers."""
    file = model_file.read(registry.FOLDER / f"{stem}.py")
    if file.size is None or file.task == "server":
        return 0
    value, unit = file.size.split()
    return float(value) * {"M": 1e6, "B": 1e9}[unit]


def _description(stem: str) -> str:
    return model_file.read(registry.FOLDER / f"{stem}.py").summary or stem
