"""Option values that are objects of other libraries, as the plain values that a configuration holds."""

import re
from collections.abc import Mapping
from typing import Any

from engine.errors import ConfigurationError
from engine.prompting.templates import TEMPLATES, find_template

# EasyLLM's functions, as build_llama2_prompt.
_BUILDER = re.compile(r"build_(\w+)_prompt")


def without_quantization_config(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with a `quantization_config` of transformers replaced by its own options.

    Raises:
        ConfigurationError: it is no configuration of bitsandbytes, or a value beside it contradicts it.
    """
    given = dict(values)
    config = given.pop("quantization_config", None)
    if config is None:
        return given
    if not isinstance(config, Mapping) and not hasattr(config, "to_diff_dict"):
        raise ConfigurationError("quantization_config: give a BitsAndBytesConfig, or its options in a dict")
    found = dict(config if isinstance(config, Mapping) else config.to_diff_dict())
    method = found.pop("quant_method", "bitsandbytes")
    if method != "bitsandbytes":
        raise ConfigurationError(
            f"quantization_config: weights are quantized by bitsandbytes only, not by {method}; a checkpoint "
            "that is quantized already needs no option"
        )
    if getattr(config, "load_in_4bit", False):  # Then transformers' default is not this package's.
        found.setdefault("bnb_4bit_compute_dtype", config.bnb_4bit_compute_dtype)
    found = {key: value for key, value in found.items() if not key.startswith("_")}
    for key in found.keys() & given.keys():
        if given[key] != found[key]:
            raise ConfigurationError(f"{key} and quantization_config contradict each other: leave one out")
    return found | given


def torch_name(value: Any) -> Any:
    """A dtype or device of torch by its name; anything else as it is."""
    known = type(value).__module__.partition(".")[0] == "torch"
    return str(value).removeprefix("torch.") if known else value


def template_name(value: Any) -> Any:
    """A chat template as text: a built-in one by its name, which EasyLLM's functions have as well.

    Raises:
        ConfigurationError: a function of any other name, or a text that is no template and no name.
    """
    if isinstance(value, str) or value is None:
        name, called = value or "", False
    else:
        name, called = str(getattr(value, "__name__", value)), callable(value)
    if (builder := _BUILDER.fullmatch(name)) and builder[1] in TEMPLATES:
        return builder[1]
    if called:
        raise ConfigurationError(
            f"option 'chat_template' is the function {name}, and only those of EasyLLM are known here: write "
            "it as a Jinja template, or call text_completion(prompt=<what it returns>)"
        )
    if isinstance(value, str) and value:
        find_template(value)
    return value
