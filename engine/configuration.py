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
from engine.options.names import ALIASES, REFUSED, supported
from engine.options.objects import without_quantization_config

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
# Options that are read with one backend only, or not with one.
_OF_SERVERS = frozenset(EndpointOptions.model_fields) - frozenset(LoadOptions.model_fields)
_OF_LOADING = frozenset(LoadOptions.model_fields) - frozenset(EndpointOptions.model_fields)
_OF_VLLM = frozenset(VLLMOptions.model_fields)
_OF_ADDRESS = frozenset({"api", "app_id", "base_url", "provider"})
KNOWN = frozenset(key for kind in KINDS for key in kind.model_fields)
Kind = TypeVar("Kind", bound=Options)
# Pydantic's problems that need other words.
_PROBLEMS = {
    "extra_forbidden": "it is no option of this call: leave it out",
    "missing": "set it in the configuration",
}


def split(*configurations: Mapping[str, Any]) -> Configuration:
    """Merges configurations, the later over the earlier, and splits them by kind of options.

    Platform keys are ignored.

    Args:
        configurations: those of a model file, then the user's own.

    Raises:
        ConfigurationError: a key is unknown, two names of one option have different values, a value is
            invalid, or the user sets an option that this backend does not read; names the key, and suggests
            the nearest known one.
        Unsupported: an option of another system that is not available here.
    """
    merged: dict[str, Any] = {}
    own: set[str] = set()
    for configuration in configurations:
        given = canonical({key: value for key, value in configuration.items() if key not in PLATFORM_KEYS})
        own = {key for key, value in given.items() if key not in merged or merged[key] != value}
        merged |= given
    if "model_name" not in merged and (named := model_name_from_environment()):
        merged["model_name"] = named
    adapter = _part(AdapterOptions, merged)
    backend = adapter.backend
    if backend == "local" and (unread := sorted(_OF_SERVERS & own)):
        raise ConfigurationError(
            f'option {unread[0]!r} is for a server: set backend to "endpoint", or leave it out'
        )
    if backend == "endpoint" and (unread := sorted(_OF_LOADING & own)):
        raise ConfigurationError(
            f"option {unread[0]!r} is for a model that is loaded here, and a server has its own: leave it out"
        )
    if backend != "vllm" and (unread := sorted(_OF_VLLM & own)):
        raise ConfigurationError(f'option {unread[0]!r} is for vLLM: set backend to "vllm", or leave it out')
    if backend == "vllm" and (unread := sorted(_OF_ADDRESS & own)):
        raise ConfigurationError(
            f"option {unread[0]!r} is for a server elsewhere, and vLLM is started here: leave it out, or set "
            'backend to "endpoint"'
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
    """Replaces aliases by option names and objects by their options, and drops values that are None.

    Raises:
        ConfigurationError: a key is unknown, or two names of one option have different values.
        Unsupported: an option of another system that is not available here.
    """
    chosen: dict[str, Any] = {}
    for key, value in supported(without_quantization_config(values)).items():
        name = ALIASES.get(key, key)
        if name not in KNOWN:
            raise unknown(key, KNOWN | ALIASES.keys() | REFUSED.keys())
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
            said = _PROBLEMS.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")
            problems.append(where + said)
        raise ConfigurationError("; ".join(problems)) from None
