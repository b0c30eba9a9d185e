"""The base class of all options."""

from pydantic import BaseModel, ConfigDict


class Options(BaseModel):
    """Base class: frozen, validated once, unknown keys refused."""

    # A command line that parses values as JSON turns a revision of digits into a number.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)
