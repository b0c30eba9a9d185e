"""The requests of a run, answered from the local platform's tables, without HTTP."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from adapters.platform.errors import Refused
from tests.gateway.query import page, select
from tests.gateway.store import Refusal, Store, merge


class Tables:
    """A platform with one dataset; its `ask` stands in for `remote.ask`.

    Attributes:
        store: what it keeps.
        dataset_id: its dataset.
    """

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.dataset_id: str = self.store.add("datasets", {"name": "items"}, "")["id"]

    def upload(self, content: Any) -> dict[str, Any]:
        """A new item with this JSON."""
        place = {"datasetId": self.dataset_id, "type": "file", "hidden": False}
        item = self.store.add("items", {**place, "metadata": {}}, "")
        self.store.blob(item).write_text(json.dumps(content))
        return item

    @property
    def annotations(self) -> list[dict[str, Any]]:
        """All that there are."""
        return list(self.store.tables["annotations"].values())

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Any = None,
        read: Callable[[Any], Any] = lambda response: response,
    ) -> Any:
        """As `remote.ask`."""
        try:
            answer = self._answer(method, path.strip("/").split("/"), json.loads(json.dumps(body)))
        except Refusal as refusal:
            raise Refused(f"{refusal.status}: {refusal.message}") from None
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        return read(SimpleNamespace(data=data, json=lambda: json.loads(data)))

    def _answer(self, method: str, path: list[str], body: Any) -> Any:
        match method, path:
            case "GET", ["items", item_id, "stream"]:
                return self.store.blob(self.store.get("items", item_id)).read_bytes()
            case "POST", ["items", item_id, "annotations"]:
                return [self.store.add("annotations", {**one, "itemId": item_id}, "") for one in body]
            case "PUT", ["annotations", annotation_id]:
                return merge(self.store.get("annotations", annotation_id), body)
            case "DELETE", ["annotations", annotation_id]:
                return self.store.remove("annotations", annotation_id)
            case "POST", ["datasets", _, "query"]:
                found = select(self.store, self.store.tables[body["resource"]].values(), body)
                if body.get("delete"):
                    for one in found:
                        self.store.remove("annotations", one["id"])
                    return {"count": len(found)}
                return page(found, body)
        raise AssertionError(f"no such request: {method} {path}")
