"""Failures: items and prompts without an answer, and how they are reported."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from engine.errors import AdapterError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Failure:
    """An item, or one of its prompts, that has no answer.

    Attributes:
        item: the item's name in messages to the user.
        key: the prompt's key; None for the whole item.
        reason: what is wrong, and what to do.
        position: the item's place in a batch; None where there is no batch.
    """

    item: str
    key: str | None
    reason: str
    position: int | None = None

    def __str__(self) -> str:
        prompt = "" if self.key is None else f"prompt {self.key!r}: "
        return f"{self.item}: {prompt}{self.reason}"


def left_out(failures: Sequence[Failure]) -> str:
    """Which items and prompts are left out: the first three with their reasons, and how many more."""
    more = f"; and {len(failures) - 3} more" if len(failures) > 3 else ""
    return f"left out: {'; '.join(map(str, failures[:3]))}{more}"


def collect_or_log(failed: Sequence[Failure], failures: list[Failure] | None) -> None:
    """Adds failures to a list; without a list they are logged as warnings."""
    if failures is not None:
        failures += failed
    else:
        for failure in failed:
            logger.warning("no answer: %s", failure)


class Unfinished(AdapterError):
    """Some items or prompts of a run have no result. The results of all others are stored.

    Attributes:
        missing: the kind of result: "answer" or "embedding".
        failures: the items and prompts without a result; `item` is the item's id.
    """

    missing: ClassVar[str]

    def __init__(self, failures: list[Failure]) -> None:
        self.failures = failures
        super().__init__(
            f"these have no {self.missing}; all other {self.missing}s are stored:\n"
            + "\n".join(map(str, failures))
        )
