"""Contenders take turns, so that what else the machine does falls on all of them alike."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from tqdm import tqdm

Result = TypeVar("Result")


@dataclass(slots=True)
class Times(Generic[Result]):
    """What a contender returned last, and its seconds in each round."""

    result: Result
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)


def ratio(one: Times[Any], other: Times[Any]) -> float:
    """How many times as long as the other one takes: the median of the rounds.

    Within a round both have the same machine, which is fast and slow by turns.
    """
    return statistics.median(a / b for a, b in zip(one.seconds, other.seconds, strict=True))


def interleave(
    contenders: dict[str, Callable[[], Result]],
    rounds: int,
    title: str,
    after: Callable[[str], object] = lambda name: None,
) -> dict[str, Times[Result]]:
    """Runs each contender once a round; `after` is called with its name then, and not timed."""
    times: dict[str, Times[Result]] = {}
    with tqdm(total=rounds * len(contenders), desc=title, disable=None) as progress:
        for _ in range(rounds):
            for name, contender in contenders.items():
                progress.set_postfix_str(name)
                started = time.perf_counter()
                result = contender()
                seconds = time.perf_counter() - started
                times.setdefault(name, Times(result)).seconds.append(seconds)
                times[name].result = result
                after(name)
                progress.update()
    return times
