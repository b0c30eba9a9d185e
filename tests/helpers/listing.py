"""A dataset of as many items as one likes, of which nothing is kept: the requests of a run over it."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

TEXT = "application/text"
CONTENT = {"prompts": {"1": {"1": {"mimetype": TEXT, "value": "Hello"}}}}


class Listing:
    """Stands in for `remote.ask`.

    Attributes:
        stored: how many answers were.
    """

    def __init__(self, items: int) -> None:
        self.items = items
        self.stored = 0

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Any = None,
        read: Callable[[Any], Any] = lambda response: response,
    ) -> Any:
        """As `remote.ask`."""
        if path.endswith("/stream"):
            answer: Any = CONTENT
        elif path.endswith("/annotations"):
            self.stored += len(body)
            answer = [{**one, "id": f"{path}/{number}"} for number, one in enumerate(body)]
        elif body["resource"] == "annotations":
            answer = {"items": [], "hasNextPage": False}
        else:
            answer = self._page(body)
        data = json.dumps(answer).encode()
        return read(SimpleNamespace(data=data, json=lambda: json.loads(data)))

    def _page(self, body: dict[str, Any]) -> dict[str, Any]:
        named: dict[str, Any] = {}
        for condition in body["filter"]["$and"]:
            named |= condition.get("id", {})
        first = int(named["$gt"]) + 1 if "$gt" in named else 0
        last = min(first + body["pageSize"], self.items)
        ids = named.get("$in") or [f"{number:08}" for number in range(first, last)]
        found = [{"id": one, "type": "file", "updatedAt": "now"} for one in ids]
        more = "$in" not in named and last < self.items
        return {"items": found, "hasNextPage": more, "totalItemsCount": self.items}
