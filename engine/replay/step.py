"""Records a model's forward pass over few tokens, tries it against the model, and runs it in its place."""

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from transformers import PreTrainedModel

from engine import trial
from engine.attention import packed
from engine.attention.packed import AttentionMetadata
from engine.attention.varlen import VarlenMetadata
from engine.module_state import model_lock
from engine.replay import code, graph, rewriting
from engine.replay.recorder import Operation, Recorder, Value

logger = logging.getLogger(__name__)

# The most tokens of a replayed pass. In a longer one Python takes a small part of the time.
MOST_TOKENS = 64
# Tokens of the two recorded passes, and of how many of them the logits are wanted: chosen so that a size
# tells which of these numbers it depends on.
_RECORDED = ((13, 3), (23, 6))
# The same numbers of the passes that are compared with the model's.
_TRIED = ((1, 1), (2, 1), (MOST_TOKENS, MOST_TOKENS))


class ReplayedStep:
    """A recorded forward pass: the logits of packed tokens.

    Args:
        replay: called with token ids, positions, wanted indices, attention metadata, and their numbers.
    """

    def __init__(self, replay: Callable[..., torch.Tensor]) -> None:
        self._replay = replay

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        attention_metadata: AttentionMetadata,
        logits_to_keep: torch.Tensor | None = None,
        **_: object,
    ) -> SimpleNamespace:
        """Has the arguments and the `logits` of the model's own packed pass."""
        wanted = input_ids[0] if logits_to_keep is None else logits_to_keep
        logits = self._replay(
            input_ids, position_ids, wanted, attention_metadata, input_ids.shape[1], len(wanted)
        )
        return SimpleNamespace(logits=logits)


def record(model: PreTrainedModel) -> ReplayedStep | None:
    """Records the model's packed pass; None where it cannot be recorded, or gives other logits.

    The model has to support packing.
    """
    try:
        recordings, outputs = zip(*(_record(model, *counts) for counts in _RECORDED), strict=True)
        made = graph.build(recordings, _RECORDED, outputs)
        rewriting.rewrite(made)
        step = ReplayedStep(code.function(made))
        far = max(_error(model, step, *counts) for counts in _TRIED)
    except Exception as error:  # Third-party code: any exception is possible.
        logger.info("decoding runs the model's own code: %s", error)
        return None
    if far > trial.tolerance(model):
        logger.info("decoding runs the model's own code: a recorded pass gave other logits (by %.1e)", far)
        return None
    return step


@contextmanager
def replaced_forward(model: PreTrainedModel, forward: Callable[..., Any]) -> Iterator[None]:
    """Has calls of the model run another function, with the model's hooks around it."""
    with model_lock(model):
        own = vars(model).get("forward")
        vars(model)["forward"] = forward
        try:
            yield
        finally:
            del vars(model)["forward"]
            if own is not None:
                vars(model)["forward"] = own


def _record(model: PreTrainedModel, count: int, wanted: int) -> tuple[list[Operation], Value]:
    """The operations of a pass over `count` tokens, with the logits of the first `wanted`."""
    own, recorders = model.forward, []

    @functools.wraps(own)  # `logits` looks at its parameters.
    def forward(**inputs: Any) -> Any:
        # A model that does not take `logits_to_keep` gives the logits of all tokens.
        keep = inputs.get("logits_to_keep", inputs["input_ids"][0])
        recorder = Recorder(
            inputs.pop("attention_metadata"), [inputs["input_ids"], inputs["position_ids"], keep]
        )
        with recorder:
            output = own(**inputs, attention_metadata=recorder)
        recorders.append((recorder, output.logits))
        return output

    with replaced_forward(model, forward), _unread_tokens(model):
        _logits(model, count, wanted)
    [(recorder, logits)] = recorders
    return recorder.operations, recorder.value_of(logits)


@contextmanager
def _unread_tokens(model: PreTrainedModel) -> Iterator[None]:
    """Keeps transformers from looking for padding among the tokens, which only warns."""
    name = "warn_if_padding_and_no_attention_mask"
    parts = [vars(part) for part in model.modules() if hasattr(part, name)]
    for part in parts:
        part[name] = lambda *_: None
    try:
        yield
    finally:
        for part in parts:
            del part[name]


def _error(model: PreTrainedModel, step: ReplayedStep, count: int, wanted: int) -> float:
    """How far the logits of a replayed pass over `count` tokens are from the model's."""
    expected = _logits(model, count, wanted)
    with replaced_forward(model, step.forward):
        found = _logits(model, count, wanted)
    return trial.relative_error([found], [expected])


def _logits(model: PreTrainedModel, count: int, wanted: int) -> torch.Tensor:
    """(wanted, vocabulary): the logits after the first tokens of short texts with `count` tokens in all."""
    whole, rest = divmod(count, trial.SHORT)
    lengths = [trial.SHORT] * whole + [rest] * (rest > 0)
    positions = [position for length in lengths for position in range(length)]
    tokens = trial.token_ids(model, count, step=11)
    return packed.logits(model, tokens, positions, VarlenMetadata(lengths), range(wanted))
