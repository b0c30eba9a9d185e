"""What the platform keeps: JSON records in memory, the bytes of items in files."""

import itertools
import posixpath
import random
import secrets
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

Record = dict[str, Any]

TABLES = {
    "projects": "Project",
    "datasets": "Dataset",
    "items": "Item",
    "annotations": "Annotation",
    "packages": "Package",
    "dpks": "Dpk",
    "apps": "App",
    "models": "Model",
    "services": "Service",
    "executions": "Execution",
    "feature_sets": "Feature set",
    "features": "Feature vector",
    "metrics": "Metric",
    "ontologies": "Ontology",
    "recipes": "Recipe",
}

# Seconds by which each date may be too early or too late.
unsteady = 0.0

_process = secrets.token_hex(5)
_counter = itertools.count()


class Refusal(Exception):
    """The platform says no: an HTTP status and a message for the user."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status
        self.message = message


def new_id() -> str:
    """24 hexadecimal digits laid out like an ObjectId: later ids sort after earlier ones."""
    return f"{int(time.time()):08x}{_process}{next(_counter) & 0xFFFFFF:06x}"


def now() -> str:
    """The current time as the platform writes it: UTC, milliseconds, Z."""
    moment = datetime.now(UTC) + timedelta(seconds=random.uniform(-unsteady, unsteady))
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def merge(target: Record, changes: Record) -> Record:
    """Lay `changes` over `target` in place: dicts deeply, `None` deletes, the rest replaces."""
    for key, value in changes.items():
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict) and isinstance(target.get(key), dict):
            merge(target[key], value)
        else:
            target[key] = value
    return target


class Store:
    """Tables of records by id. Only the server's event loop touches it, so it needs no locks."""

    def __init__(self, folder: Path):
        self.blobs = folder / "blobs"
        self.blobs.mkdir(parents=True)
        self.tables: dict[str, dict[str, Record]] = defaultdict(dict)
        # With many items a search through all of them, or all annotations, takes too long.
        self._of_items: dict[str, dict[str, Record]] = defaultdict(dict)
        self._named: dict[tuple[str, str], str] = {}

    def add(self, table: str, record: Record, user: str) -> Record:
        """Give the record an id, dates and a creator, and keep it."""
        identity = new_id()
        moment = now()
        record = record | {
            "id": identity,
            "createdAt": moment,
            "updatedAt": moment,
            "creator": user,
            "updatedBy": user,
        }
        self.tables[table][identity] = record
        if table == "annotations":
            self._of_items[record["itemId"]][identity] = record
        return record

    def get(self, table: str, identity: str | None) -> Record:
        """The record with this id; a 404 that names the table and the id otherwise."""
        try:
            return self.tables[table][identity]
        except KeyError:
            raise Refusal(404, f"{TABLES[table]} not found: {identity}") from None

    def find(self, table: str, **fields: Any) -> list[Record]:
        """Records whose top-level fields equal these, oldest first."""
        wanted = fields.items()
        of_item = table == "annotations" and "itemId" in fields
        among = self._of_items[fields["itemId"]] if of_item else self.tables[table]
        return [row for row in among.values() if all(row.get(k) == v for k, v in wanted)]

    def rename(self, item: Record, filename: str) -> None:
        """Let an item lie at a path of its dataset."""
        filename = "/" + filename.lstrip("/")
        item.update(filename=filename, name=posixpath.basename(filename), dir=posixpath.dirname(filename))
        self._named[item["datasetId"], filename] = item["id"]

    def item_at(self, dataset_id: str, filename: str) -> Record | None:
        """The item at a path of a dataset."""
        item = self.tables["items"].get(self._named.get((dataset_id, filename), ""))
        return item if item is not None and item["filename"] == filename else None

    def touch(self, record: Record, user: str) -> Record:
        """Note who changed the record and when."""
        record.update(updatedAt=now(), updatedBy=user)
        return record

    def remove(self, table: str, identity: str) -> None:
        """Forget a record (404 when unknown) and all that belongs to it."""
        record = self.get(table, identity)
        del self.tables[table][identity]
        if table == "annotations":
            del self._of_items[record["itemId"]][identity]
        if table == "projects":
            self._remove_where("datasets", projects=[identity])
            for owned in ("packages", "apps", "models", "services"):
                self._remove_where(owned, projectId=identity)
        elif table == "datasets":
            self._remove_where("items", datasetId=identity)
        elif table == "items":
            self.blob(record).unlink(missing_ok=True)
            self._remove_where("annotations", itemId=identity)
            self._remove_where("features", entityId=identity)
        elif table == "annotations":
            self.count_annotations(record["itemId"])
        elif table == "feature_sets":
            self._remove_where("features", featureSetId=identity)

    def _remove_where(self, table: str, **fields: Any) -> None:
        for row in self.find(table, **fields):
            self.remove(table, row["id"])

    def blob(self, item: Record) -> Path:
        """The file that holds an item's bytes."""
        return self.blobs / item["id"]

    def count_annotations(self, item_id: str) -> None:
        """Keep an item's `annotated` and `annotationsCount` true after its annotations changed."""
        item = self.tables["items"].get(item_id)
        if item is not None:
            count = len(self.find("annotations", itemId=item_id))
            item.update(annotated=count > 0, annotationsCount=count)
