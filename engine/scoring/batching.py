"""Computes log-probabilities or logits of scoring inputs, in few forward passes within a token budget."""

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TypeVar

import torch
from transformers import PreTrainedModel

from engine.attention import packed
from engine.errors import GenerationError
from engine.progress import progress_bar
from engine.scoring.logits_readers import LogitsReader, ScoringInput
from engine.scoring.reader_selection import select_reader

logger = logging.getLogger(__name__)

# Budget of a pass over several inputs: tokens, and bytes of logits in float32.
TOKENS = 2048
LOGITS_BYTES = 2**28
# Rows of logits that are normalized at a time.
_NORMALIZED_ROWS = 128

Result = TypeVar("Result")
# From inputs, the logits of a pass over them, and the rows of each input, to a result for each input.
Extract = Callable[[Sequence[ScoringInput], torch.Tensor, list[list[int]]], list[Result]]


def logprobs(model: PreTrainedModel, inputs: Sequence[ScoringInput]) -> list[list[float] | GenerationError]:
    """The log-probability of each target, computed in float32.

    Returns:
        For each input, in order, one natural logarithm per target, or the error of the model.

    Raises:
        Unsupported: the model cannot score.
    """

    def extract(
        inputs: Sequence[ScoringInput], logits: torch.Tensor, rows: list[list[int]]
    ) -> list[list[float]]:
        norms = torch.cat([part.float().logsumexp(-1) for part in logits.split(_NORMALIZED_ROWS)])
        row = torch.tensor([i for wanted in rows for i in wanted], device=logits.device)
        target = torch.tensor([token for item in inputs for token in item.targets], device=logits.device)
        chosen = logits[row, target].float() - norms[row]
        return [part.tolist() for part in chosen.cpu().split([len(item.targets) for item in inputs])]

    return _run(model, inputs, extract)


def last_logits(
    model: PreTrainedModel, inputs: Sequence[ScoringInput]
) -> list[torch.Tensor | GenerationError]:
    """The logits at the last position of each input.

    Returns:
        For each input, in order, float32 (vocabulary,) on the CPU, or the error of the model.

    Raises:
        Unsupported: the model cannot score.
    """

    def extract(
        inputs: Sequence[ScoringInput], logits: torch.Tensor, rows: list[list[int]]
    ) -> list[torch.Tensor]:
        return list(logits[[wanted[-1] for wanted in rows]].float().cpu())

    return _run(model, inputs, extract)


def _run(
    model: PreTrainedModel, inputs: Sequence[ScoringInput], extract: Extract[Result]
) -> list[Result | GenerationError]:
    reader, batched = select_reader(model)
    results: dict[int, Result | GenerationError] = {}
    with progress_bar("scoring", len(inputs), "text") as bar:
        for batch in _batches(reader, inputs, batched):
            found = _pass(reader, [inputs[i] for i in batch], extract)
            results |= zip(batch, found, strict=True)
            bar.update(len(batch))
    return [results[i] for i in range(len(inputs))]


def _batches(reader: LogitsReader, inputs: Sequence[ScoringInput], batched: bool) -> Iterator[list[int]]:
    """Indices of the inputs of each pass. A group is split only if it exceeds the budget by itself."""
    if not batched:
        for i in range(len(inputs)):
            yield [i]
        return
    threshold = packed.longrope_threshold(reader.model)  # A longrope model's long inputs are read apart.
    most_rows = LOGITS_BYTES // (4 * reader.model.config.get_text_config(decoder=True).vocab_size)

    def fits(batch: list[int]) -> bool:
        tokens, rows = reader.cost([inputs[i] for i in batch])
        return len(batch) == 1 or (tokens <= TOKENS and rows <= most_rows)

    def is_long(i: int) -> bool:
        return threshold is not None and len(inputs[i].tokens) > threshold

    order = sorted(range(len(inputs)), key=lambda i: (is_long(i), *reader.sort_key(inputs[i])))
    batch: list[int] = []
    for _, members in groupby(order, key=lambda i: (is_long(i), inputs[i].group)):
        group = list(members)
        for part in [group] if fits(group) else [[i] for i in group]:
            if batch and (is_long(batch[0]) != is_long(part[0]) or not fits(batch + part)):
                yield batch
                batch = []
            batch = batch + part
    if batch:
        yield batch


def _pass(
    reader: LogitsReader, inputs: list[ScoringInput], extract: Extract[Result]
) -> list[Result | GenerationError]:
    """The results of one pass. If it fails, e.g. out of memory, each half is tried by itself."""
    try:
        with torch.inference_mode():
            return [*extract(inputs, *reader.logits(inputs))]
    except Exception as error:  # Third-party code: any exception is possible.
        reason = f"{type(error).__name__}: {error}"
    if len(inputs) == 1:
        return [GenerationError(f"the model failed on this prompt: {reason}")]
    logger.warning("a pass over %d sequences failed (%s): trying halves", len(inputs), reason)
    half = len(inputs) // 2
    return _pass(reader, inputs[:half], extract) + _pass(reader, inputs[half:], extract)
