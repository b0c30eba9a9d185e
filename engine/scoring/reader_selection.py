"""Selects the fastest reader that is correct for a model: packed trees, padding, or one input per pass."""

import logging
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from engine import trial
from engine.attention import packed
from engine.batching import Batching
from engine.errors import Unsupported
from engine.module_state import reset_state
from engine.scoring.logits_readers import (
    EncoderDecoderReader,
    LogitsReader,
    PaddedReader,
    ScoringInput,
    TreeReader,
)

logger = logging.getLogger(__name__)

_ReaderClass = type[TreeReader] | type[PaddedReader] | type[EncoderDecoderReader]
_selected: WeakKeyDictionary[PreTrainedModel, tuple[_ReaderClass, Batching]] = WeakKeyDictionary()


def select_reader(model: PreTrainedModel) -> tuple[LogitsReader, Batching]:
    """The reader for a model, and how inputs share a pass: packed, padded or single. Tried once per model.

    Raises:
        Unsupported: no reader gives the model's own logits.
    """
    if model not in _selected:
        _selected[model] = _fastest(model)
    reader, batching = _selected[model]
    return reader(model), batching


def _fastest(model: PreTrainedModel) -> tuple[_ReaderClass, Batching]:
    """The first reader that gives trial inputs the logits that the model gives each of them alone.

    Raises:
        Unsupported: there is none.
    """
    padded: _ReaderClass = EncoderDecoderReader if model.config.is_encoder_decoder else PaddedReader
    candidates: list[tuple[_ReaderClass, Batching]] = [(padded, "padded"), (padded, "single")]
    if packed.supports_packing(model):
        candidates.insert(0, (TreeReader, "packed"))
    if trial.forbids_padding(model):
        candidates = [(padded, "single")]
    inputs = _trial_inputs(model)
    name = type(model).__name__

    def alone() -> list[torch.Tensor]:
        return [_alone(model, item) for item in inputs]

    with torch.inference_mode():
        try:
            with trial.narrowed_windows(model):
                expected = alone()
        except Exception as error:  # Third-party code: any exception is possible.
            reason = f"{type(error).__name__}: {error}"
            raise Unsupported(f"{name} cannot score: it fails by itself ({reason})") from None
        for reader, batching in candidates:
            try:
                with trial.narrowed_windows(model):
                    found = _logits(reader(model), inputs, batching)
            except Exception as error:
                logger.debug("a trial of scoring failed", exc_info=error)
                continue
            if trial.matches(model, found, expected, alone):
                logger.info("%s scores texts %s", name, batching)
                return reader, batching
    raise Unsupported(f"{name} cannot score: a trial gave other logits than the model alone")


def _trial_inputs(model: PreTrainedModel) -> list[ScoringInput]:
    """Candidates for each trial prompt, some with a common prefix."""
    first, second, third = trial.token_ids(model, 3, step=29)
    candidates = (first, second), (second, first, third), (second, third, first), (third,)
    inputs = []
    for group, prompt in enumerate(trial.prompts(model)):
        for candidate in candidates:
            if model.config.is_encoder_decoder:
                tokens, encoder_tokens = (prompt[0], *candidate[:-1]), tuple(prompt)
            else:
                tokens, encoder_tokens = (*prompt, *candidate[:-1]), ()
            inputs.append(ScoringInput(tokens, candidate, (group, len(prompt)), encoder_tokens))
    return inputs


def _alone(model: PreTrainedModel, item: ScoringInput) -> torch.Tensor:
    """The logits of one input in its own pass, (targets, vocabulary)."""
    reset_state(model)
    tokens = torch.tensor([item.tokens], device=model.device)
    positions = list(item.positions)
    if item.encoder_tokens:
        encoder_tokens = torch.tensor([item.encoder_tokens], device=model.device)
        return model(input_ids=encoder_tokens, decoder_input_ids=tokens, use_cache=False).logits[0, positions]
    return model(input_ids=tokens, use_cache=False).logits[0, positions]


def _logits(reader: LogitsReader, inputs: Sequence[ScoringInput], batching: Batching) -> list[torch.Tensor]:
    """The logits of each input as the reader gives them, (targets, vocabulary), in order."""
    if batching == "single":
        return [_logits(reader, [item], "padded")[0] for item in inputs]
    order = sorted(range(len(inputs)), key=lambda i: reader.sort_key(inputs[i]))
    logits, rows = reader.logits([inputs[i] for i in order])
    found = dict(zip(order, rows, strict=True))
    return [logits[found[i]] for i in range(len(inputs))]
