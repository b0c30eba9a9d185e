"""The options that commands share: which model, and its configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from adapters import registry
from engine.errors import ConfigurationError


def _names(incomplete: str) -> list[str]:
    return [name for name in registry.names() if name.startswith(incomplete)]


Model = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        autocompletion=_names,
        help="A file of models/, or owner/name of the hub, or a folder.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="An option of the model's configuration; the value is JSON, or else text.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def named(model: str, settings: Sequence[str] | None) -> tuple[str, dict[str, Any]]:
    """The model file and the configuration that the options name.

    Raises:
        ConfigurationError: no such model, or a setting that is not KEY=VALUE.
    """
    return registry.chosen(model, dict(map(assignment, settings or ())))


def loaded(model: str, settings: Sequence[str] | None) -> Any:
    """The model that the options name, ready to answer.

    Raises:
        ConfigurationError: no such model, or an invalid option.
        LoadError: weights that cannot be loaded.
    """
    return registry.load(*named(model, settings))


def assignment(text: str) -> tuple[str, Any]:
    """Key and value of KEY=VALUE; the value is JSON, or else text.

    Raises:
        ConfigurationError: it has no key or no "=".
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigurationError(f"--set {text!r} is not KEY=VALUE: write --set temperature=0.7")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def exclusive(given: Mapping[str, bool]) -> None:
    """Refuses options that exclude each other.

    Raises:
        ConfigurationError: more than one is given.
    """
    names = [name for name, chosen in given.items() if chosen]
    if len(names) > 1:
        raise ConfigurationError(f"{' and '.join(names)} exclude each other: give one of them")
