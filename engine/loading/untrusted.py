"""What a repository brings that could run code, or read other files, though nobody has said to trust it."""

import json
import logging
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from engine.errors import LoadError

logger = logging.getLogger(__name__)

INDEX = "model.safetensors.index.json"


def drop_kernels(name: str, config: PretrainedConfig) -> None:
    """Takes an attention of the hub out of a configuration: it is code that would be downloaded and run."""
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


def refuse_files(name: str, index: Path | None, pickles: bool) -> None:
    """Sees that an index of weights names no file outside the model's folder, and no pickled one.

    Args:
        index: the file `INDEX` of the model; None where there is none.
        pickles: whether pickled weights are accepted.

    Raises:
        LoadError: it does.
    """
    if index is None:
        return
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        files = sorted(set(map(str, named)))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return  # transformers cannot read it either, and `explaining` says so.
    for file in files:
        if Path(file).is_absolute() or ".." in file.replace("\\", "/").split("/"):
            raise LoadError(
                f"{name} names weights outside of its folder ({file!r}) in {INDEX}: do not use it"
            )
        if not pickles and not file.endswith(".safetensors"):
            raise LoadError(
                f"{name} names weights that are no safetensors ({file!r}) in {INDEX}, and pickled ones can "
                "run code: set use_safetensors to false if you trust them"
            )


def note_code(name: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Says that a tokenizer's own code was passed over, since transformers has a class for it, too."""
    given: Any = tokenizer.init_kwargs.get("auto_map")
    if given:
        logger.warning(
            "%s has code of its own for its tokenizer, which is not run: set trust_remote_code to true if "
            "you trust it and texts are read wrongly",
            name,
        )
