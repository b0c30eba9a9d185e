"""Failures: items and prompts without an answer, and how they are reported."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from engine.errors import AdapterError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Failure:
    """Something in a batch that has no answer: an item, or one of its prompts.

    Attributes:
        item: how the item is named to the user.
        key: the prompt's key; None for the whole item.
        reason: what is wrong and what to do.
        position: the item's place in a batch; None where there is no batch.
    """

    item: str
    key: str | None
    reason: str
    position: int | None = None

    def __str__(self) -> str:
        prompt = "" if self.key is None else f"prompt {self.key!r}: "
        return f"{self.item}: {prompt}{self.reason}"


def report(failed: Sequence[Failure], failures: list[Failure] | None) -> None:
    """Hands over what has no answer, or logs it where there is no list to take it."""
    if failures is not None:
        failures += failed
    else:
        for failure in failed:
            logger.warning("no answer: %s", failure)


class Unfinished(AdapterError):
    """A run in which something has no result, while all else is stored.

    Attributes:
        missing: what it has not.
        failures: what has none; `item` is the item's id.
    """

    missing: ClassVar[str]

    def __init__(self, failures: list[Failure]) -> None:
        self.failures = failures
        super().__init__(f"no {self.missing}, while all else is stored:\n" + "\n".join(map(str, failures)))
