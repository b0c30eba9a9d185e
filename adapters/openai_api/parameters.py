"""What a call is given besides its prompts: parameters of the call, and generation options."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field

from engine.configuration import unknown
from engine.errors import ConfigurationError
from engine.options import GenerationOptions, Options
from engine.options.names import ALIASES, supported

# OpenAI's parameters that have no effect on answers.
IGNORED = frozenset(
    {
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)

# Options that decide how a conversation is written, and do nothing for a text.
RENDERING = frozenset({"chat_template", "chat_template_kwargs", "overflow", "system_prompt"})


class StreamOptions(BaseModel, frozen=True, extra="forbid"):
    """What a stream says besides the answer."""

    include_usage: bool = False


class Parameters(Options):
    """The parameters of a call that are not generation options."""

    n: int = Field(1, ge=1, le=128)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    suffix: str | None = None
    echo: bool = False


def split(options: Mapping[str, Any], taken: set[str]) -> tuple[Parameters, dict[str, Any]]:
    """The parameters of a call, those in `taken`, and the generation options.

    Raises:
        ConfigurationError: an unknown one, or an invalid value; its name is told.
    """
    options = {key: value for key, value in supported(options).items() if key not in IGNORED}
    known = taken | set(GenerationOptions.model_fields)
    for key in options:
        if ALIASES.get(key, key) not in known:
            raise unknown(key, known)
    given = {key: value for key, value in options.items() if value is not None}
    call = Parameters(**{key: given.pop(key) for key in taken if key in given})
    return call, given


def check_plain_prompt(options: Mapping[str, Any]) -> None:
    """Refuses options for conversations beside a prompt that is continued as it is.

    Raises:
        ConfigurationError: one of them is given.
    """
    for key, value in options.items():
        if value is not None and ALIASES.get(key, key) in RENDERING:
            raise ConfigurationError(
                f"option {key!r} is for conversations, and this prompt is read as it is: give messages, "
                '[{"role": "user", "content": "..."}], or leave it out'
            )
