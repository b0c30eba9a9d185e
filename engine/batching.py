"""How several sequences share a forward pass, and what is done when their batch fails.

Generation, scoring and embedding use one vocabulary (`Batching`); each tries at load what a model supports.
"""

from __future__ import annotations

import bisect
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

# Tokens of a batch of texts; an accelerator needs more than a CPU to be busy.
CPU_BUDGET, GPU_BUDGET = 2048, 16384
# The most sequences that generation runs at the same time: its batch size.
MAX_SEQUENCES = 32

Item = TypeVar("Item")
Result = TypeVar("Result")
# - continuous: each sequence enters and leaves the batch by itself (generation only).
# - packed: in one row without padding (scoring and embedding only).
# - padded: rows of one length, short sequences padded.
# - equal_length: only sequences of equal length share a batch.
# - single: each runs alone.
Batching = Literal["continuous", "packed", "padded", "equal_length", "single"]


def run_or_halve(
    batch: Sequence[Item],
    run: Callable[[Sequence[Item]], Result],
    retries: Callable[[Exception], bool] = lambda error: True,
) -> Iterator[tuple[Sequence[Item], Result | Exception]]:
    """Runs a batch; if that fails, for lack of memory say, each half of it by itself, and so on.

    Args:
        retries: whether to try halves after this exception; if not, it is raised.

    Yields:
        Each part that ran with its result, in order; an item that fails alone with its exception.
    """
    try:
        result: Result | Exception = run(batch)
    except Exception as error:  # Third-party code: any exception is possible.
        if not retries(error):
            raise
        half = len(batch) // 2
        if half:
            logger.warning(
                "a batch of %d sequences failed (%s: %s): trying halves",
                len(batch),
                type(error).__name__,
                error,
            )
        result = error
    else:
        half = 0
    if not half:
        yield batch, result
        return
    # The error's traceback keeps the tensors that filled the memory.
    del result
    yield from run_or_halve(batch[:half], run, retries)
    yield from run_or_halve(batch[half:], run, retries)


def token_budget(device: torch.device) -> int:
    """The most tokens of a batch of several texts on a device."""
    return CPU_BUDGET if device.type == "cpu" else GPU_BUDGET


def length_batches(
    lengths: Sequence[int], batching: Batching, budget: int, longrope: float = math.inf
) -> Iterator[list[int]]:
    """The indices of texts that share a batch, texts of similar lengths together; empty texts are left out.

    Args:
        lengths: tokens of each text.
        budget: the most tokens of several texts, padding included.
        longrope: texts longer than this share a batch with texts of their length only.
    """
    # The longest first, so that a lack of memory shows at once.
    batch: list[int] = []
    used = 0
    for i in sorted(filter(lengths.__getitem__, range(len(lengths))), key=lambda i: -lengths[i]):
        longest = lengths[batch[0]] if batch else lengths[i]
        cost = lengths[i] if batching == "packed" else longest
        mixed = lengths[i] != longest and (batching == "equal_length" or longest > longrope)
        if batch and (batching == "single" or mixed or used + cost > budget):
            yield batch
            batch, used, cost = [], 0, lengths[i]
        batch.append(i)
        used += cost
    if batch:
        yield batch


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the longest common prefix of two token sequences."""
    shorter = min(len(one), len(other))
    if one[:shorter] == other[:shorter]:
        return shorter
    return bisect.bisect_left(range(shorter), True, key=lambda end: one[: end + 1] != other[: end + 1])
