"""Records a model's forward pass over few tokens, tries it against the model, and runs it in its place."""

import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import fx
from transformers import PreTrainedModel

from engine import trial
from engine.attention import packed
from engine.attention.packed import AttentionMetadata
from engine.attention.varlen import VarlenMetadata
from engine.module_state import model_lock
from engine.replay import code, compiling, graph, rewriting
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


def record(model: PreTrainedModel, compiled: bool = False) -> ReplayedStep | None:
    """Records the model's packed pass; None where it cannot be recorded, or gives other logits.

    The model has to support packing.

    Args:
        compiled: has its small operations compiled, where there is a compiler and it gives the same logits.
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
    return (compiled and _compiled(model, recordings, outputs)) or step


def _compiled(
    model: PreTrainedModel, recordings: Sequence[Sequence[Operation]], outputs: Sequence[Value]
) -> ReplayedStep | None:
    """The pass with its small operations compiled; None where that fails, or gives other logits."""
    start = time.perf_counter()
    try:
        if model.device.type != "cpu":
            raise compiling.Uncompilable("it is for CPUs")
        made = graph.build(recordings, _RECORDED, outputs)
        one, other = (_values(model, made, *counts) for counts in _RECORDED)
        values = {node: (value, other[node]) for node, value in one.items()}
        pieces = compiling.compile_pieces(made, values, _RECORDED)
        step = ReplayedStep(code.function(made))
        far = max(_error(model, step, *counts) for counts in _TRIED)
    except Exception as error:  # Of the compiler, or that there is none.
        logger.debug("compiling failed", exc_info=error)
        reason = str(error).strip().partition("\n")[0]
        logger.warning(
            "option 'compile': the decoding step stays as it is: %s: %s", type(error).__name__, reason
        )
        return None
    if far > trial.tolerance(model):
        logger.warning(
            "option 'compile': the decoding step stays as it is: it gave other logits (by %.1e)", far
        )
        return None
    seconds = time.perf_counter() - start
    logger.info("compiled the decoding step in %.1f s (%d pieces)", seconds, pieces)
    return step


def _values(model: PreTrainedModel, made: fx.Graph, count: int, wanted: int) -> dict[Any, Any]:
    """What each node of a graph computes in a pass over `count` tokens."""
    values: dict[Any, Any] = {}

    def run(*inputs: Any) -> torch.Tensor:
        values.update(compiling.evaluate(made, inputs))
        logits: torch.Tensor = values[made.output_node().args[0]]
        return logits

    with replaced_forward(model, ReplayedStep(run).forward):
        _logits(model, count, wanted)
    return values


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
