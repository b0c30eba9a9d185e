"""Turns a configuration into options: unknown keys are refused and each value is checked once."""

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError

from engine.environment import model_name_from_environment
from engine.errors import ConfigurationError
from engine.options import (
    AdapterOptions,
    EmbeddingOptions,
    EndpointOptions,
    GenerationOptions,
    LoadOptions,
    Options,
    VLLMOptions,
)

# Keys that Dataloop keeps in a model's configuration for itself: allowed and ignored.
PLATFORM_KEYS = frozenset(
    {
        "adapter_defaults",
        "batch_size",
        "clean_annotations",
        "column",
        "data_path",
        "embeddings_size",
        "id_to_label_map",
        "include_background",
        "include_model_annotations",
        "label_to_id_map",
        "module_name",
        "output_path",
        "overwrite_annotations",
        "predict_embed_subset_limit",
        "predict_embed_timeout",
        "root_path",
        "upload_annotations",
        "upload_features",
        "weights_filename",
    }
)
# Alternative names of options.
ALIASES = {
    "max_completion_tokens": "max_new_tokens",
    "max_tokens": "max_new_tokens",
    "prompt_builder": "chat_template",
    "stop_words": "stop",
    "torch_dtype": "dtype",
}


@dataclass(frozen=True, slots=True)
class Configuration:
    """A configuration, split by kind of options.

    Attributes:
        load: None if the backend is `endpoint`, which loads no weights.
        vllm: None unless the backend is `vllm`.
    """

    adapter: AdapterOptions
    endpoint: EndpointOptions
    vllm: VLLMOptions | None
    load: LoadOptions | None
    generation: GenerationOptions
    embedding: EmbeddingOptions


KINDS: tuple[type[Options], ...] = (
    AdapterOptions,
    EndpointOptions,
    VLLMOptions,
    LoadOptions,
    GenerationOptions,
    EmbeddingOptions,
)
# Options that name a server, where `vllm` starts its own.
_ENDPOINT_ONLY = frozenset({"api", "app_id", "base_url", "provider"})
KNOWN = frozenset(key for kind in KINDS for key in kind.model_fields)
Kind = TypeVar("Kind", bound=Options)


def split(*configurations: Mapping[str, Any]) -> Configuration:
    """Merges configurations, the later over the earlier, and splits them by kind of options.

    Platform keys are ignored.

    Raises:
        ConfigurationError: a key is unknown, two names of one option have different values, a value is
            invalid, or an option is for another backend; names the key, and suggests the nearest known one.
    """
    merged: dict[str, Any] = {}
    for configuration in configurations:
        merged |= canonical({key: value for key, value in configuration.items() if key not in PLATFORM_KEYS})
    if "model_name" not in merged and (named := model_name_from_environment()):
        merged["model_name"] = named
    adapter = _part(AdapterOptions, merged)
    backend = adapter.backend
    others = _ENDPOINT_ONLY if backend == "vllm" else VLLMOptions.model_fields.keys()
    if misplaced := [key for key in merged if key in others]:
        theirs = "endpoint" if backend == "vllm" else "vllm"
        raise ConfigurationError(
            f"{' and '.join(misplaced)} is for backend: {theirs}, and backend is {backend}: leave it out, or "
            f"set backend to {theirs}"
        )
    return Configuration(
        adapter,
        _part(EndpointOptions, merged),
        _part(VLLMOptions, merged) if backend == "vllm" else None,
        _part(LoadOptions, merged) if backend != "endpoint" else None,
        _part(GenerationOptions, merged),
        _part(EmbeddingOptions, merged),
    )


def _part(kind: type[Kind], values: Mapping[str, Any]) -> Kind:
    return checked(kind, {key: value for key, value in values.items() if key in kind.model_fields})


def override(options: Kind, values: Mapping[str, Any]) -> Kind:
    """Options with some values replaced.

    Raises:
        ConfigurationError: a key is unknown, two names of one option have different values, or a value is
            invalid; names the key.
    """
    return checked(type(options), options.model_dump(exclude_unset=True) | canonical(values))


def canonical(values: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces aliases by option names, and drops values that are None.

    Raises:
        ConfigurationError: a key is unknown, or two names of one option have different values.
    """
    chosen: dict[str, Any] = {}
    for key, value in values.items():
        name = ALIASES.get(key, key)
        if name not in KNOWN:
            raise unknown(key, KNOWN | ALIASES.keys())
        if value is None:
            continue
        if name in chosen and chosen[name] != value:
            names = [other for other in values if ALIASES.get(other, other) == name]
            raise ConfigurationError(f"{' and '.join(map(repr, names))} are one option: give it one value")
        chosen[name] = value
    return chosen


def unknown(key: str, known: Collection[str]) -> ConfigurationError:
    """The error for an unknown option; suggests the nearest known one."""
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known options: {', '.join(sorted(known))}"
    return ConfigurationError(f"unknown option {key!r}: {hint}")


def checked(kind: type[Kind], values: Mapping[str, Any]) -> Kind:
    """Creates options of a kind.

    Raises:
        ConfigurationError: a value is invalid or a key unknown; names the key.
    """
    try:
        return kind(**values)
    except ValidationError as error:
        problems = []
        for problem in error.errors(include_url=False):
            where = f"option {'.'.join(map(str, problem['loc']))!r}: " if problem["loc"] else ""
            missing = "is needed: set it in the configuration" if problem["type"] == "missing" else None
            problems.append(where + (missing or problem["msg"].removeprefix("Value error, ")))
        raise ConfigurationError("; ".join(problems)) from None
