"""How a model's rows are read: packed, padded or one by one, the first that a trial shows to be right."""

import logging
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from engine import packing, trial
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
    """The first way in which the rows of a trial have the logits that each has in a pass of its own."""
    plain: _Kind = EncoderDecoder if model.config.is_encoder_decoder else Padded
    kinds: list[_Kind] = [Packed, plain] if packing.packs(model) else [plain]
    if trial.selects_keys(model):
        return plain, False
    rows = _rows(model)
    with trial.narrowed(model), torch.inference_mode():
        try:
            alone = [_asked(plain(model), [row])[0] for row in rows]
        except Exception as error:  # A model's code is its author's.
            logger.info("candidates are scored one by one, for a trial failed: %s", error)
            return plain, False
        for kind in kinds:
            try:
                if trial.same(_asked(kind(model), rows), alone):
                    return kind, True
                logger.info("candidates are not scored %s: a trial gave other numbers", kind.__name__.lower())
            except Exception as error:
                logger.info("candidates are not scored %s: a trial failed: %s", kind.__name__.lower(), error)
    return plain, False


def _rows(model: PreTrainedModel) -> list[Row]:
    """Three continuations of each prompt."""
    first, second, third = trial.sequence(model, 3, step=29)
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


def _asked(reader: Reader, rows: Sequence[Row]) -> list[torch.Tensor]:
    """(targets, vocabulary) for each row, in the order in which they are given."""
    order = sorted(range(len(rows)), key=lambda i: reader.order(rows[i]))
    logits, places = reader.logits([rows[i] for i in order])
    found = dict(zip(order, places, strict=True))
    return [logits[found[i]] for i in range(len(rows))]
