"""A configuration → options: one snapshot, every key known, every value checked once."""

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
)

# Keys that Dataloop keeps in a model's configuration for itself or for the interface: allowed, not ours.
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
        "labels",
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
# Other names for the same option.
ALIASES = {
    "max_completion_tokens": "max_new_tokens",
    "max_tokens": "max_new_tokens",
    "prompt_builder": "chat_template",
    "stop_words": "stop",
    "torch_dtype": "dtype",
}


@dataclass(frozen=True, slots=True)
class Configuration:
    """A configuration by the parts that read it; `load` is None where a server answers."""

    adapter: AdapterOptions
    endpoint: EndpointOptions
    load: LoadOptions | None
    generation: GenerationOptions
    embedding: EmbeddingOptions


KINDS: tuple[type[Options], ...] = (
    AdapterOptions,
    EndpointOptions,
    LoadOptions,
    GenerationOptions,
    EmbeddingOptions,
)
KNOWN = frozenset(key for kind in KINDS for key in kind.model_fields)
Kind = TypeVar("Kind", bound=Options)


def split(*configurations: Mapping[str, Any]) -> Configuration:
    """Configurations, later over earlier, as the kinds of options; platform keys are passed over.

    Raises:
        ConfigurationError: an unknown key (the nearest known one is suggested), two names of one option
            with different values, or a value that cannot be; the key is named.
    """
    merged: dict[str, Any] = {}
    for configuration in configurations:
        merged |= canonical({key: value for key, value in configuration.items() if key not in PLATFORM_KEYS})
    if "model_name" not in merged and (named := model_name_from_environment()):
        merged["model_name"] = named
    adapter = _part(AdapterOptions, merged)
    return Configuration(
        adapter,
        _part(EndpointOptions, merged),
        None if adapter.backend == "endpoint" else _part(LoadOptions, merged),
        _part(GenerationOptions, merged),
        _part(EmbeddingOptions, merged),
    )


def _part(kind: type[Kind], values: Mapping[str, Any]) -> Kind:
    return checked(kind, {key: value for key, value in values.items() if key in kind.model_fields})


def override(options: Kind, values: Mapping[str, Any]) -> Kind:
    """Options with some of them replaced.

    Raises:
        ConfigurationError: as `split`.
    """
    return checked(type(options), options.model_dump(exclude_unset=True) | canonical(values))


def canonical(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values under the options' own names; None counts as not given.

    Raises:
        ConfigurationError: an unknown key, or two names of one option with different values.
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
    """The error for an option that there is not."""
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known options: {', '.join(sorted(known))}"
    return ConfigurationError(f"unknown option {key!r}: {hint}")


def checked(kind: type[Kind], values: Mapping[str, Any]) -> Kind:
    """Options of a kind.

    Raises:
        ConfigurationError: a value that cannot be, or an unknown key; the key is named.
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
