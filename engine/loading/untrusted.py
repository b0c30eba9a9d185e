"""Guards against repositories that would run code or read other files without `trust_remote_code`."""

import json
import logging
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from engine.errors import LoadError

logger = logging.getLogger(__name__)

# What to do about pickled weights, for error texts.
PICKLED_HINT = "Pickled weights can run code: set use_safetensors to false if you trust them"
INDEX = "model.safetensors.index.json"


def drop_hub_attention(name: str, config: PretrainedConfig) -> None:
    """Removes hub attention kernels from a configuration: transformers would download and run their code."""
    for part in (config, *(getattr(config, key, None) for key in config.sub_configs)):
        asked = getattr(part, "_attn_implementation", None)
        if part is not None and asked is not None and "/" in str(asked):
            part._attn_implementation = None
            logger.warning(
                "%s asks for an attention that is code of the hub, which is not run: set "
                "attn_implementation to %r if you trust it",
                name,
                asked,
            )


def check_weight_index(name: str, index: Path | None, allow_pickle: bool) -> None:
    """Checks that a weight index names no file outside the model's folder, and no pickled one.

    Args:
        name: the model, for the error.
        index: the path of the model's `INDEX` file, or None.
        allow_pickle: whether pickled weights are accepted.

    Raises:
        LoadError: the index names such a file.
    """
    if index is None:
        return
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        files = sorted(set(map(str, named)))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return  # transformers cannot read it either, and reports it.
    for file in files:
        if Path(file).is_absolute() or ".." in file.replace("\\", "/").split("/"):
            raise LoadError(
                f"{name} names weights outside of its folder ({file!r}) in {INDEX}: do not use it"
            )
        if not allow_pickle and not file.endswith(".safetensors"):
            raise LoadError(
                f"{name} names weights that are not safetensors ({file!r}) in {INDEX} - {PICKLED_HINT}"
            )


def warn_of_tokenizer_code(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Warns if the repository has custom tokenizer code that was not run."""
    given: Any = tokenizer.init_kwargs.get("auto_map")
    if given:
        logger.warning(
            "%s has code of its own for its tokenizer, which is not run: set trust_remote_code to true if "
            "you trust it and texts are read wrongly",
            name,
        )
