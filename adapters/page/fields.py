"""The generation options as fields of a form: their names, descriptions and kinds come from the options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from engine.configuration import override
from engine.options import GenerationOptions

# The page asks for these itself, or they are for annotations.
_NOT_SHOWN = {"keep_reasoning", "logprobs", "n", "on_length", "top_logprobs"}
# The likeliest tokens that are asked for at each position.
TOP = 5


@dataclass(frozen=True, slots=True)
class Field:
    """One option.

    Attributes:
        kind: "choice", "text" (of a number, too), or "lines", a list of texts, one a line.
        choices: of a "choice", as texts.
        value: the value if the field is empty, as text; "" if there is none.
    """

    name: str
    description: str
    kind: Literal["choice", "text", "lines"]
    choices: tuple[str, ...]
    value: str


def fields(options: GenerationOptions) -> list[Field]:
    """A field for each option that can be typed."""
    properties = type(options).model_json_schema()["properties"]
    found = (_field(name, about, getattr(options, name)) for name, about in properties.items())
    return [field for field in found if field is not None]


def chosen(
    options: GenerationOptions, named: Sequence[Field], values: Sequence[str | None]
) -> GenerationOptions:
    """The options with the values of fields; an empty field keeps the configuration's value.

    Raises:
        ConfigurationError: an invalid value; names the option.
    """
    given = {
        field.name: _value(field, value)
        for field, value in zip(named, values, strict=True)
        if value is not None and value.strip()
    }
    return override(options, given | {"logprobs": True, "top_logprobs": TOP})


def _field(name: str, about: dict[str, Any], value: Any) -> Field | None:
    if name in _NOT_SHOWN:
        return None
    kinds = [kind for kind in about.get("anyOf", [about]) if kind.get("type") != "null"]
    shown = "" if value is None else "\n".join(value) if isinstance(value, tuple) else str(value)
    match kinds:
        case [{"enum": list(choices)}]:
            return Field(name, about["description"], "choice", tuple(map(str, choices)), shown)
        case [{"type": "boolean"}]:
            return Field(name, about["description"], "choice", ("true", "false"), shown.lower())
        case [{"type": "number" | "integer" | "string"}]:
            return Field(name, about["description"], "text", (), shown)
        case [{"type": "array", "items": {"type": "string"}}]:
            return Field(name, about["description"], "lines", (), shown)
    return None


def _value(field: Field, typed: str) -> str | list[str]:
    return [line for line in typed.splitlines() if line] if field.kind == "lines" else typed.strip()
