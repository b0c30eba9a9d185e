"""What a test can turn and read: requests that fail on purpose, and the log of all requests."""

import json
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Request:
    """One request as it was received, and the status it was answered with (0: connection dropped)."""

    method: str
    path: str
    query: dict[str, str]
    json: Any
    user: str
    status: int = 0


@dataclass
class Fault:
    """Fails the requests number `nth` to `nth + times - 1` that match, counted from 1; of these, a share."""

    method: str | None
    path: re.Pattern[str]
    nth: int = 1
    times: float = 1
    status: int = 503
    when: str = "before"
    drop: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    body: re.Pattern[str] = re.compile("")
    chance: random.Random | None = None
    share: float = 1.0
    garble: Callable[[bytes], bytes] | None = None
    seen: int = 0

    def strikes(self, method: str, path: str, body: Any) -> bool:
        """Count the request if it matches, and say whether it is one of those that fail."""
        if self.method not in (None, method) or not self.path.search(path):
            return False
        if self.body.pattern and not self.body.search(json.dumps(body)):
            return False
        self.seen += 1
        if not self.nth <= self.seen < self.nth + self.times:
            return False
        return self.chance is None or self.chance.random() < self.share
