"""Trials at load: does a faster way to run a model give the same numbers as the untouched model?

Callers run the untouched model and the faster way (continuous batching, packing, padding, prepacked weights)
on the token sequences given here, with sliding windows narrowed so that these exceed them, and compare.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import PretrainedConfig, PreTrainedModel

from engine.generation.hf_generate import BatchSampler, generate
from engine.model_properties import max_batch_length, vocabulary_size
from engine.module_state import model_lock

# Length of the long sequence of a trial, and of the short one beside it, in tokens.
LONG, SHORT = 24, 5
# The most tokens that a trial generates after a sequence.
_ROOM = 4
# The largest relative error of logits, in float32 and with a model that computes in lower precision.
_EXACT, ROUNDED = 1e-3, 0.2
# What sliding windows are narrowed to in a trial, in tokens: the long sequence goes well past it.
WINDOW = 8
# Names of sliding windows and of other bounds on how far a token sees, in configurations and modules.
_WINDOWS = re.compile(
    r".*(window|attention_chunk|chunk_length|local_attention|index_topk).*(?<!layers)(?<!pattern)"
)


def token_ids(model: PreTrainedModel, length: int, step: int = 13) -> list[int]:
    """A sequence of token ids from the model's vocabulary; another `step` gives another one."""
    size = vocabulary_size(model)
    return [(7 + step * i) % size for i in range(length)]


def prompts(model: PreTrainedModel) -> list[list[int]]:
    """Token sequences of three lengths, the longest first; each leaves room for a short answer."""
    positions = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    bound = max_batch_length(model, positions) or LONG + _ROOM
    longest = min(LONG, max(SHORT + 1, bound - _ROOM))
    middle = (longest + SHORT) // 2
    return [
        token_ids(model, longest),
        token_ids(model, middle, step=17),
        token_ids(model, SHORT, step=11),
    ]


def forced_logits(model: PreTrainedModel, prompts: Sequence[Sequence[int]], pad: int) -> torch.Tensor:
    """The logits of a batch that generates two given tokens: (sequences, 2, vocabulary), float32."""
    sampler = _ForcedTokens(token_ids(model, 2, step=29))
    generate(model, prompts, sampler, max_new_tokens=2, eos=frozenset(), pad=pad)
    return torch.stack(sampler.steps, dim=1)


def forbids_padding(model: PreTrainedModel) -> bool:
    """Whether the model must not be padded, though a short trial would not show why.

    Sparse attention picks its top keys among all of them, padding included, and ties are broken by their
    number. BigBird switches to another attention beyond some length.
    """
    top_keys = any(name.startswith("index_topk") for fields in _fields(model) for name in fields)
    return top_keys or any(hasattr(module, "set_attention_type") for module in model.modules())


def is_close(model: PreTrainedModel, found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> bool:
    """Whether tensors equal those of the untouched model, within the model's tolerance."""
    return relative_error(found, expected) <= tolerance(model)


def matches(
    model: PreTrainedModel,
    found: Sequence[torch.Tensor],
    expected: Sequence[torch.Tensor],
    unmasked: Callable[[], Sequence[torch.Tensor]],
) -> bool:
    """Whether tensors equal those of the untouched model, with its windows and masks in effect.

    In low precision the tolerance may hide what a window or mask changes. So there the tensors must also be
    closer to the expected ones than to those without windows or masks.

    Args:
        unmasked: computes the tensors without windows or masks.
    """
    if not is_close(model, found, expected) or not has_low_precision(model):
        return is_close(model, found, expected)
    effect = relative_error(unmasked(), expected)
    return effect <= _EXACT or relative_error(found, expected) <= effect / 2


def relative_error(found: Sequence[torch.Tensor], expected: Sequence[torch.Tensor]) -> float:
    """The largest relative error of a tensor, by Euclidean norm; inf for a NaN."""
    worst = 0.0
    for one, other in zip(found, expected, strict=True):
        distance = float((one.float() - other.float()).norm() / other.float().norm().clamp(min=1e-30))
        worst = float("inf") if math.isnan(distance) else max(worst, distance)
    return worst


def has_low_precision(model: PreTrainedModel) -> bool:
    """Whether any weight is not in float32: half precision or quantized."""
    return any(weight.dtype != torch.float32 for weight in model.parameters())


def tolerance(model: PreTrainedModel) -> float:
    """The largest relative error that a correct way to run the model may have.

    In low precision, rounding may also route a token to another expert; a wrong mask differs by far more.
    """
    return ROUNDED if has_low_precision(model) else _EXACT


@contextmanager
def narrowed_windows(model: PreTrainedModel) -> Iterator[None]:
    """Narrows the model's sliding windows to `WINDOW` tokens, so that short sequences go past them.

    A window as long as the context length has no effect, and is left alone.
    """
    positions = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    with model_lock(model):
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
    """The attributes of each module and configuration of the model."""
    configs: dict[int, PretrainedConfig] = {id(model.config): model.config}
    for module in model.modules():
        yield vars(module)
        config = getattr(module, "config", None)
        if isinstance(config, PretrainedConfig):
            configs[id(config)] = config
            text = config.get_text_config(decoder=True)
            configs[id(text)] = text
    yield from map(vars, configs.values())


class _ForcedTokens(BatchSampler):
    """The same given tokens for each sequence.

    Attributes:
        steps: the model's logits at each step.
    """

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = tokens
        self.steps: list[torch.Tensor] = []

    def sample(self, scores: torch.Tensor) -> torch.Tensor:
        """Returns the next given token for each sequence, (sequences,)."""
        token = self.tokens[len(self.steps)]
        self.steps.append(self.logits)
        return torch.full((len(scores),), token, device=scores.device)
