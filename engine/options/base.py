"""The base class of all options."""

import difflib
import json
from collections.abc import Collection
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, ErrorDetails, core_schema

from engine.errors import ConfigurationError


class Options(BaseModel):
    """Base class: frozen, validated once, unknown keys refused."""

    # A command line that parses values as JSON turns a revision of digits into a number.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)

    def __init__(self, **values: Any) -> None:
        """Checks the values.

        Raises:
            ConfigurationError: a value is invalid or a key unknown; names the key.
        """
        try:
            super().__init__(**values)
        except ValidationError as error:
            known = type(self).model_fields
            problems = [_described(problem, known) for problem in error.errors(include_url=False)]
            raise ConfigurationError("; ".join(problems)) from None


def _described(problem: ErrorDetails, known: Collection[str]) -> str:
    key = ".".join(map(str, problem["loc"]))
    where = f"option {key!r}: " if key else ""
    match problem["type"]:
        case "extra_forbidden":
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
            return where + (
                f"did you mean {near[0]!r}?" if near else "it is not an option of this call: leave it out"
            )
        case "missing":
            return f"{where}set it in the configuration"
    return where + problem["msg"].removeprefix("Value error, ")


class JSONObject(dict[str, Any]):
    """A JSON object as the value of an option: hashable, as options are, so nobody may change it."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(json.dumps(self, sort_keys=True))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(cls._checked, handler(dict[str, Any]))

    @classmethod
    def _checked(cls, given: dict[str, Any]) -> Self:
        try:
            return cls(json.loads(json.dumps(given, allow_nan=False)))
        except (TypeError, ValueError, RecursionError):
            raise ValueError(
                "it is not a JSON object: give texts, numbers, booleans, lists, objects"
            ) from None
