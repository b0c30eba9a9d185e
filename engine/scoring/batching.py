"""Computes log-probabilities or logits of scoring inputs, in few forward passes within a token budget."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from transformers import PreTrainedModel

from engine.batching import Batching, run_or_halve
from engine.errors import GenerationError
from engine.model_properties import longrope_threshold, vocabulary_size
from engine.progress import progress_bar
from engine.scoring.logits_readers import LogitsReader, ScoringInput
from engine.scoring.reader_selection import select_reader

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
    model: PreTrainedModel, inputs: Sequence[ScoringInput], tokens: Sequence[int] | None = None
) -> list[torch.Tensor | GenerationError]:
    """The logits at the last position of each input.

    Args:
        tokens: the tokens whose logits are wanted; None for the whole vocabulary.

    Returns:
        For each input, in order, float32 (vocabulary,) or (tokens,) on the CPU, or the error of the model.

    Raises:
        Unsupported: the model cannot score.
    """

    def extract(
        inputs: Sequence[ScoringInput], logits: torch.Tensor, rows: list[list[int]]
    ) -> list[torch.Tensor]:
        last = logits[[wanted[-1] for wanted in rows]]
        return list((last if tokens is None else last[:, list(tokens)]).float().cpu())

    return _run(model, inputs, extract)


def _run(
    model: PreTrainedModel, inputs: Sequence[ScoringInput], extract: Extract[Result]
) -> list[Result | GenerationError]:
    reader, batching = select_reader(model)
    results: dict[int, Result | GenerationError] = {}

    def run(batch: Sequence[int]) -> list[Result]:
        chosen = [inputs[i] for i in batch]
        with torch.inference_mode():
            return [*extract(chosen, *reader.logits(chosen))]

    with progress_bar("scoring", len(inputs), "text") as bar:
        for whole in _batches(reader, inputs, batching):
            for batch, found in run_or_halve(whole, run):
                if isinstance(found, Exception):
                    reason = f"{type(found).__name__}: {found}"
                    results[batch[0]] = GenerationError(f"the model failed on this prompt: {reason}")
                else:
                    results |= zip(batch, found, strict=True)
                bar.update(len(batch))
    return [results[i] for i in range(len(inputs))]


def _batches(reader: LogitsReader, inputs: Sequence[ScoringInput], batching: Batching) -> Iterator[list[int]]:
    """Indices of the inputs of each pass. A group is split only if it exceeds the budget by itself."""
    if batching == "single":
        for i in range(len(inputs)):
            yield [i]
        return
    threshold = longrope_threshold(reader.model)  # A longrope model's long inputs are read apart.
    most_rows = LOGITS_BYTES // (4 * vocabulary_size(reader.model))

    def is_long(i: int) -> bool:
        return threshold is not None and len(inputs[i].tokens) > threshold

    order = sorted(range(len(inputs)), key=lambda i: (is_long(i), *reader.sort_key(inputs[i])))

    def end(start: int) -> int:
        """Where a batch ends: before the group that exceeds the budget, or within the batch's first group."""
        # A long prompt is read with as many tokens of its candidates, not anew for each of them.
        most_tokens = max(TOKENS, 2 * len(inputs[order[start]].tokens))
        costs = reader.costs(inputs[order[i]] for i in range(start, len(order)))
        group = start
        for i, (tokens, rows) in enumerate(costs, start):
            if inputs[order[i]].group != inputs[order[group]].group:
                group = i
            mixed = is_long(order[i]) != is_long(order[start])
            if i > start and (mixed or tokens > most_tokens or rows > most_rows):
                return group if group > start else i
        return len(order)

    start = 0
    while start < len(order):
        yield order[start : (start := end(start))]
