"""What is tried when a model is loaded: does a faster way to run it give what the model gives untouched?"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from transformers import PretrainedConfig, PreTrainedModel

from engine.attention.packed import alone, switch

# Tokens of the long sequence of a trial, and of the short one beside it.
LONG, SHORT = 24, 5
# Tokens that a trial goes on by, at most.
_ROOM = 4
# How far logits may be from others, in float32 and where a model rounds.
_EXACT, _ROUNDED = 1e-3, 0.2
# What a window is narrowed to for a trial: the long sequence goes well past it.
WINDOW = 8
# Names of what bounds how far a token sees, in transformers' configurations and modules.
_WINDOWS = re.compile(
    r".*(window|attention_chunk|chunk_length|local_attention|index_topk).*(?<!layers)(?<!pattern)"
)


def sequence(model: PreTrainedModel, length: int, step: int = 13) -> list[int]:
    """So many token ids of the model's vocabulary; another `step` gives others."""
    size = vocabulary(model)
    return [(7 + step * i) % size for i in range(length)]


def vocabulary(model: PreTrainedModel) -> int:
    """How many token ids a model reads."""
    try:
        return len(cast(Any, model.get_input_embeddings()).weight)
    except (AttributeError, NotImplementedError):  # Not every class says where its embeddings are.
        return model.config.get_text_config(decoder=True).vocab_size


def prompts(model: PreTrainedModel) -> list[list[int]]:
    """Sequences of three lengths, the longest first, with room behind them."""
    positions = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    bounds = filter(None, (positions, switch(model)))
    longest = min(LONG, max(SHORT + 1, min(bounds, default=LONG + _ROOM) - _ROOM))
    middle = (longest + SHORT) // 2
    return [
        sequence(model, longest),
        sequence(model, middle, step=17),
        sequence(model, SHORT, step=11),
    ]


def minds_padding(model: PreTrainedModel) -> bool:
    """Whether the model must not be padded, though no short trial would show why.

    Which of some keys that score alike a sparse attention takes depends on how many there are, padding
    included; and BigBird takes another attention from some length on.
    """
    best_keys = any(name.startswith("index_topk") for fields in _fields(model) for name in fields)
    return best_keys or any(hasattr(module, "set_attention_type") for module in model.modules())


def same(model: PreTrainedModel, found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> bool:
    """Whether each tensor is that of the model untouched, but for rounding."""
    return difference(found, expected) <= tolerance(model)


def heeds(
    model: PreTrainedModel,
    found: Sequence[torch.Tensor],
    expected: Sequence[torch.Tensor],
    otherwise: Callable[[], Sequence[torch.Tensor]],
) -> bool:
    """Whether tensors are those of the model untouched, and not those without its windows or a mask.

    Where a model rounds, that may hide what these do; so it is compared with it.

    Args:
        otherwise: gives what the model makes without them.
    """
    if not same(model, found, expected) or not rounds(model):
        return same(model, found, expected)
    effect = difference(otherwise(), expected)
    return effect <= _EXACT or difference(found, expected) <= effect / 2


def difference(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> float:
    """How far the farthest of some tensors is from what it should be, relative to that; inf for a NaN."""
    worst = 0.0
    for one, other in zip(found, expected, strict=True):
        distance = float((one.float() - other.float()).norm() / other.float().norm().clamp(min=1e-30))
        worst = float("inf") if math.isnan(distance) else max(worst, distance)
    return worst


def rounds(model: PreTrainedModel) -> bool:
    """Whether a model computes less exactly than in float32: in half precision, or with quantized layers."""
    return any(weight.dtype != torch.float32 for weight in model.parameters())


def tolerance(model: PreTrainedModel) -> float:
    """How far a right way to run a model may be from another, relative to the whole.

    What rounds may also send a token to another expert; a wrong mask differs by far more.
    """
    return _ROUNDED if rounds(model) else _EXACT


@contextmanager
def narrowed(model: PreTrainedModel) -> Iterator[None]:
    """The model with each of its windows narrowed to `WINDOW` tokens, so that a short trial goes past them.

    A window as long as the longest sequence is none, and stays.
    """
    positions = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    with alone(model):
        changed = [
            (fields, name, value)
            for fields in _fields(model)
            for name, value in fields.items()
            if type(value) is int and WINDOW < value < (positions or value + 1) and _WINDOWS.fullmatch(name)
        ]
        try:
            for fields, name, _ in changed:
                fields[name] = WINDOW
            yield
        finally:
            for fields, name, value in changed:
                fields[name] = value


def _fields(model: PreTrainedModel) -> Iterator[dict[str, Any]]:
    """The attributes of the modules and configurations that the model is made of, each once."""
    configs: dict[int, PretrainedConfig] = {id(model.config): model.config}
    for module in model.modules():
        yield vars(module)
        config = getattr(module, "config", None)
        if isinstance(config, PretrainedConfig):
            configs[id(config)] = config
            text = config.get_text_config(decoder=True)
            configs[id(text)] = text
    yield from map(vars, configs.values())
