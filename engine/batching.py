"""How several sequences share a forward pass, and what is done when their batch fails.

Generation, scoring and embedding use one vocabulary (`Batching`); each tries at load what a model supports.
"""

import bisect
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeVar

logger = logging.getLogger(__name__)

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


def common_prefix(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the longest common prefix of two token sequences."""
    shorter = min(len(one), len(other))
    if one[:shorter] == other[:shorter]:
        return shorter
    return bisect.bisect_left(range(shorter), True, key=lambda end: one[: end + 1] != other[: end + 1])
