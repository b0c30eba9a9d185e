"""Rows of token ids in, log-probabilities or logits out, in as few forward passes as are worthwhile."""

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TypeVar

import torch
from transformers import PreTrainedModel

from engine.attention import packed
from engine.errors import GenerationError
from engine.progress import progress_bar
from engine.scoring.readers import Reader, Row
from engine.scoring.ways import way

logger = logging.getLogger(__name__)

# Tokens that a forward pass reads, where more than one row is in it.
TOKENS = 2048
# Bytes of logits that it gives, likewise, as if they were float32.
LOGITS = 2**28
# Rows of logits that are normalised at a time.
_ROWS = 128

Result = TypeVar("Result")
# Rows, the logits of a pass over them, and which of these are asked for by each row.
Take = Callable[[Sequence[Row], torch.Tensor, list[list[int]]], list[Result]]


def logprobs(model: PreTrainedModel, rows: Sequence[Row]) -> list[list[float] | GenerationError]:
    """The log-probability of each target of each row, computed in float32; in the order of `rows`."""

    def take(rows: Sequence[Row], logits: torch.Tensor, places: list[list[int]]) -> list[list[float]]:
        norms = torch.cat([part.float().logsumexp(-1) for part in logits.split(_ROWS)])
        place = torch.tensor([i for asked in places for i in asked], device=logits.device)
        target = torch.tensor([token for row in rows for token in row.targets], device=logits.device)
        chosen = logits[place, target].float() - norms[place]
        return [part.tolist() for part in chosen.cpu().split([len(row.targets) for row in rows])]

    return _read(model, rows, take)


def last_logits(model: PreTrainedModel, rows: Sequence[Row]) -> list[torch.Tensor | GenerationError]:
    """The logits of each row's last position: float32 (vocabulary,) on the CPU; in the order of `rows`."""

    def take(rows: Sequence[Row], logits: torch.Tensor, places: list[list[int]]) -> list[torch.Tensor]:
        return list(logits[[asked[-1] for asked in places]].float().cpu())

    return _read(model, rows, take)


def _read(model: PreTrainedModel, rows: Sequence[Row], take: Take[Result]) -> list[Result | GenerationError]:
    reader, shared = way(model)
    results: dict[int, Result | GenerationError] = {}
    with progress_bar("scoring", len(rows), "text") as bar:
        for batch in _batches(reader, rows, shared):
            read = _read_or_halve(reader, [rows[i] for i in batch], take)
            results |= zip(batch, read, strict=True)
            bar.update(len(batch))
    return [results[i] for i in range(len(rows))]


def _batches(reader: Reader, rows: Sequence[Row], shared: bool) -> Iterator[list[int]]:
    """Indices of rows that are read in one pass; a group is split only where it is too large by itself."""
    if not shared:
        for i in range(len(rows)):
            yield [i]
        return
    switch = packed.switch(reader.model)  # A longrope model's long rows are read apart.
    most = LOGITS // (4 * reader.model.config.get_text_config(decoder=True).vocab_size)

    def fit(batch: list[int]) -> bool:
        tokens, places = reader.size([rows[i] for i in batch])
        return len(batch) == 1 or (tokens <= TOKENS and places <= most)

    def long(i: int) -> bool:
        return switch is not None and len(rows[i].tokens) > switch

    order = sorted(range(len(rows)), key=lambda i: (long(i), *reader.order(rows[i])))
    batch: list[int] = []
    for _, group in groupby(order, key=lambda i: (long(i), rows[i].group)):
        together = list(group)
        for part in [together] if fit(together) else [[i] for i in together]:
            if batch and (long(batch[0]) != long(part[0]) or not fit(batch + part)):
                yield batch
                batch = []
            batch = batch + part
    if batch:
        yield batch


def _read_or_halve(reader: Reader, rows: list[Row], take: Take[Result]) -> list[Result | GenerationError]:
    """What `take` makes of one pass; one that fails (out of memory, say) is halved and tried again."""
    try:
        with torch.inference_mode():
            return [*take(rows, *reader.logits(rows))]
    except Exception as error:  # A model's code is its author's.
        reason = f"{type(error).__name__}: {error}"
    if len(rows) == 1:
        return [GenerationError(f"the model failed on this prompt: {reason}")]
    logger.warning("a pass over %d rows failed (%s): trying halves", len(rows), reason)
    half = len(rows) // 2
    return _read_or_halve(reader, rows[:half], take) + _read_or_halve(reader, rows[half:], take)
