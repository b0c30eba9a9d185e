"""Adds a model: writes its file in models/, its line in tests/test_models.py, and the manifest."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from adapters import registry
from engine.errors import ConfigurationError

# Tells the user what was done.
Say = Callable[[str], object]

FILE = '''"""{title}: say here in a line what it is good for."""

from adapters.hugging import HuggingAdapter as Base


class HuggingAdapter(Base):
    model_name = "{hub_id}"
{attributes}'''
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Where the tests of model files name an architecture, or the pooling of an embedding model.
TESTED = {"generate": "ARCHITECTURES", "embed": "POOLINGS", "classify": "CLASSIFIERS"}
# The command to try a model by.
TRIED = {"generate": "chat", "embed": "embed", "classify": "score"}
SIZES = ("hidden_size", "d_model", "n_embd", "dim")


def add(name: str, hub_id: str, config: dict[str, Any] | None, say: Say) -> None:
    """Adds a model of the hub.

    Args:
        name: the file's name in models/.
        config: the model's config.json; None where it is not known, and the model is not checked.

    Raises:
        ConfigurationError: a name that cannot be, or a model that cannot run here. Nothing was written.
    """
    check_names(name, hub_id)
    task = "generate" if config is None else _task(hub_id, config)
    path = registry.FOLDER / f"{name}.py"
    path.write_text(_source(hub_id, task, config or {}), encoding="utf-8")
    say(f"models/{path.name} is written{'' if config else ', unchecked: ' + _unchecked(hub_id)}\n")
    _test(name, task, config, say)
    _manifest(say)
    say(f"Next: make docs, and try it: python -m adapters {TRIED[task]} --model {name}\n")


def name_of(hub_id: str) -> str:
    """The file name for a hub id: "owner/Qwen3-0.6B" is qwen3_0_6b."""
    name = re.sub(r"[^a-z0-9]+", "_", hub_id.rpartition("/")[2].lower()).strip("_")
    return name if name[:1].isalpha() else f"model_{name}"


def check_names(name: str, hub_id: str) -> None:
    """Checks the names of a model that is to be added.

    Raises:
        ConfigurationError: the file's name is invalid or taken, or the hub id is invalid.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ConfigurationError(f"{name!r} is not a name for a file: use small letters, digits and _")
    if name in registry.names():
        raise ConfigurationError(f"models/{name}.py is there already: choose another name, or edit it")
    if not HUB_ID.fullmatch(hub_id):
        raise ConfigurationError(f"{hub_id!r} is not a hub id: it has the form owner/name")


def _unchecked(hub_id: str) -> str:
    return f"the configuration of {hub_id} is not on this machine"


def _task(hub_id: str, config: dict[str, Any]) -> str:
    """What a model can do by its configuration.

    Raises:
        ConfigurationError: transformers does not know it, or it has to do with no text.
    """
    from transformers.models.auto import modeling_auto

    kind, heads = str(config.get("model_type")), set(config.get("architectures") or ())
    writers = [
        mapping.get(kind)
        for mapping in (
            modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
            modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        )
    ]
    if heads & set(writers) or (any(writers) and not heads):
        return "generate"
    if heads and heads == {modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.get(kind)}:
        return "classify"
    if kind in modeling_auto.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES:
        return "embed"
    if config.get("auto_map"):
        raise ConfigurationError(
            f"{hub_id} needs code of its own repository ({kind}): write models/ by hand, with "
            "trust_remote_code in its defaults, if you trust it"
        )
    raise ConfigurationError(
        f"{hub_id} is not a language model that transformers knows (model_type {kind!r}): nothing was written"
    )


def _source(hub_id: str, task: str, config: dict[str, Any]) -> str:
    size = next((config[key] for key in SIZES if isinstance(config.get(key), int)), None)
    defaults: dict[str, Any] = {"max_new_tokens": 256} if task == "generate" else {}
    if size and task != "classify":
        defaults["embeddings_size"] = size
    if task == "embed":
        defaults["upload_features"] = True
    items = ", ".join(f'"{key}": {value!r}' for key, value in defaults.items())
    kind = '    task = "embed"\n' if task == "embed" else ""
    title = hub_id.rpartition("/")[2]
    attributes = f"{kind}    defaults = {{{items}}}\n" if defaults else kind
    return FILE.format(title=title, hub_id=hub_id, attributes=attributes)


def _test(name: str, task: str, config: dict[str, Any] | None, say: Say) -> None:
    path = registry.FOLDER.parent / "tests" / "test_models.py"
    kind = "mean" if task == "embed" else (config or {}).get("model_type")
    if kind is None or not path.is_file():
        say(f'Add "{name}" with its architecture to {TESTED[task]} in tests/test_models.py\n')
        return
    path.write_text(_with_entry(path.read_text(encoding="utf-8"), TESTED[task], name, kind), encoding="utf-8")
    say(f'"{name}": "{kind}" is in {TESTED[task]} of tests/test_models.py\n')


def _with_entry(source: str, table: str, key: str, value: str) -> str:
    """The source with an entry more in one of its tables, which stays sorted and formatted."""
    found = re.search(rf"^{table} = {{(.*?)}}", source, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ConfigurationError(f"tests/test_models.py has no table {table}: add {key!r} there by hand")
    entries = sorted([*re.findall(r'"\w+": "\w+"', found[1]), f'"{key}": "{value}"'])
    lines = "".join(f"    {entry},\n" for entry in entries)
    return f"{source[: found.start()]}{table} = {{\n{lines}}}{source[found.end() :]}"


def _manifest(say: Say) -> None:
    from adapters.platform import manifest

    path = registry.FOLDER.parent / "dataloop.json"
    path.write_text(manifest.dumps(manifest.build()), encoding="utf-8")
    say(f"{path.name} is written\n")
