"""How a model's rows are read: packed, padded or one by one, the first that a trial shows to be right."""

import logging
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from engine import trial
from engine.attention import packed
from engine.errors import Unsupported
from engine.module_state import reset_state
from engine.scoring.readers import EncoderDecoder, Packed, Padded, Reader, Row

logger = logging.getLogger(__name__)

_Kind = type[Packed] | type[Padded] | type[EncoderDecoder]

_ways: WeakKeyDictionary[PreTrainedModel, tuple[_Kind, bool]] = WeakKeyDictionary()


def way(model: PreTrainedModel) -> tuple[Reader, bool]:
    """What reads a model's rows, and whether several may share a pass; tried once for a model."""
    if model not in _ways:
        _ways[model] = _fastest(model)
    kind, together = _ways[model]
    return kind(model), together


def _fastest(model: PreTrainedModel) -> tuple[_Kind, bool]:
    """The first way in which the rows of a trial have the logits that the model gives for each alone.

    Raises:
        Unsupported: there is none.
    """
    plain: _Kind = EncoderDecoder if model.config.is_encoder_decoder else Padded
    ways: list[tuple[_Kind, bool]] = [(plain, True), (plain, False)]
    if packed.supports_packing(model):
        ways.insert(0, (Packed, True))
    if trial.forbids_padding(model):
        ways = [(plain, False)]
    rows = _rows(model)
    name = type(model).__name__

    def alone() -> list[torch.Tensor]:
        return [_alone(model, row) for row in rows]

    with torch.inference_mode():
        try:
            with trial.narrowed_windows(model):
                expected = alone()
        except Exception as error:  # A model's code is its author's.
            reason = f"{type(error).__name__}: {error}"
            raise Unsupported(f"{name} cannot score: it fails by itself ({reason})") from None
        for kind, together in ways:
            try:
                with trial.narrowed_windows(model):
                    found = _asked(kind(model), rows, together)
            except Exception as error:
                logger.debug("a trial of scoring failed", exc_info=error)
                continue
            if trial.matches(model, found, expected, alone):
                logger.info("%s scores %s, together: %s", name, kind.__name__.lower(), together)
                return kind, together
    raise Unsupported(f"{name} cannot score: a trial gave other logits than the model alone")


def _rows(model: PreTrainedModel) -> list[Row]:
    """Three continuations of each prompt."""
    first, second, third = trial.token_ids(model, 3, step=29)
    continuations = (first, second), (second, first, third), (third,)
    rows = []
    for group, prompt in enumerate(trial.prompts(model)):
        for continuation in continuations:
            if model.config.is_encoder_decoder:
                tokens, source = (prompt[0], *continuation[:-1]), tuple(prompt)
            else:
                tokens, source = (*prompt, *continuation[:-1]), ()
            rows.append(Row(tokens, continuation, (group, len(prompt)), source))
    return rows


def _alone(model: PreTrainedModel, row: Row) -> torch.Tensor:
    """(targets, vocabulary): the logits of a row in a pass of its own."""
    reset_state(model)
    tokens = torch.tensor([row.tokens], device=model.device)
    if row.source:
        source = torch.tensor([row.source], device=model.device)
        return model(input_ids=source, decoder_input_ids=tokens, use_cache=False).logits[0, list(row.places)]
    return model(input_ids=tokens, use_cache=False).logits[0, list(row.places)]


def _asked(reader: Reader, rows: Sequence[Row], together: bool) -> list[torch.Tensor]:
    """(targets, vocabulary) for each row, in the order in which they are given."""
    if not together:
        return [_asked(reader, [row], True)[0] for row in rows]
    order = sorted(range(len(rows)), key=lambda i: reader.order(rows[i]))
    logits, places = reader.logits([rows[i] for i in order])
    found = dict(zip(order, places, strict=True))
    return [logits[found[i]] for i in range(len(rows))]
