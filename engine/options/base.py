"""The base class of all options."""

import json
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


class Options(BaseModel):
    """Base class: frozen, validated once, unknown keys refused."""

    # A command line that parses values as JSON turns a revision of digits into a number.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)


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
            raise ValueError("it is no JSON object: give texts, numbers, booleans, lists, objects") from None
