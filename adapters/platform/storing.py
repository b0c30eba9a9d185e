"""Answers on the platform's items: looked at before, and sent.

What was stored twice, half, or by two runs at once is told apart by its marks (`uploads`), whatever a request
was answered.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from adapters.items.stored import is_by, prompt_of, size_of, text_at
from adapters.platform import remote, uploads
from adapters.platform.remote import Record, RemoteError
from adapters.platform.uploads import UNMARKED, Upload

# Annotations of one request.
BATCH = 100


@dataclass(slots=True)
class Seen:
    """An item as it was when its turn came.

    Attributes:
        answers: this model's answers that it had.
        digest: of its content, once that is read.
    """

    id: str
    dataset_id: str
    filename: str
    size: int
    updated_at: str
    answers: list[Record] = field(default_factory=list)
    digest: str = ""

    @classmethod
    def of(cls, item: Record, dataset_id: str) -> "Seen":
        """Takes the record of an item of a dataset."""
        filename, updated_at = text_at(item, "filename") or "", text_at(item, "updatedAt") or ""
        return cls(item["id"], dataset_id, filename, size_of(item), updated_at)

    @classmethod
    def of_entity(cls, item: Any) -> "Seen":
        """Takes the SDK's entity of an item."""
        size = size_of({"metadata": item.metadata})
        return cls(item.id, item.dataset_id, item.filename, size, item.updated_at or "")


@dataclass(frozen=True, slots=True)
class Stored:
    """An item that is to be settled, and what was sent to it.

    Attributes:
        upload: that of the answers.
        keys: the prompts they answer; none where nothing was sent.
        annotations: what the platform returned for them.
        error: why not all of them may be there.
        drafts: ids of what these answers stand in for, whether they arrived or not.
    """

    seen: Seen
    upload: Upload = UNMARKED
    keys: frozenset[str] = frozenset()
    annotations: list[Record] = field(default_factory=list)
    error: str | None = None
    drafts: list[str] = field(default_factory=list)


def digest(content: bytes) -> str:
    """What tells one content from another."""
    return hashlib.sha256(content).hexdigest()


def answers_of(dataset_id: str, item_ids: Sequence[str], model_name: str) -> dict[str, list[Record]]:
    """A model's answers on items of a dataset, by the item's id.

    Raises:
        RemoteError: they could not be listed.
    """
    condition = {
        "$and": [{"type": {"$in": ["text"]}}, {"itemId": {"$in": list(item_ids)}}],
        "$or": [{f"metadata.{part}.model.name": model_name} for part in ("user", "system")],
    }
    found: dict[str, list[Record]] = defaultdict(list)
    for page in remote.pages(dataset_id, {"resource": "annotations", "filter": condition}):
        for annotation in page:
            if is_by(annotation, model_name):  # In a filter, a * in the name stands for anything.
                found[str(annotation.get("itemId"))].append(annotation)
    return found


def store(seen: Seen, annotations: Sequence[Record]) -> Stored:
    """Sends an item's answers; what went wrong is noted, and found out by `settle`."""
    upload = uploads.following(seen.answers)
    marked = uploads.marked(annotations, upload)
    stored = Stored(
        seen, upload, frozenset(key for one in annotations if (key := prompt_of(one)) is not None)
    )
    try:
        for start in range(0, len(marked), BATCH):
            stored.annotations.extend(remote.annotate(seen.id, marked[start : start + BATCH]))
    except RemoteError as error:
        return replace(stored, error=str(error))
    return stored
