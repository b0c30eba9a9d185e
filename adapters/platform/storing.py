"""Answers on the platform's items: looked at before, and sent.

What was stored twice, half, or by two runs at once is told apart by its marks (`uploads`), whatever a request
was answered.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from adapters.items.item import Snapshot
from adapters.items.stored import Record, is_by, prompt_of
from adapters.platform import remote, uploads
from adapters.platform.remote import RemoteError
from adapters.platform.uploads import UNMARKED, Upload

# Annotations of one request.
BATCH = 100


@dataclass(frozen=True, slots=True)
class Submission:
    """What was sent to an item, for `settling` to reconcile.

    Attributes:
        upload: the tag of the answers.
        keys: the prompts they answer; none where nothing was sent.
        annotations: what the platform returned for them.
        error: why not all of them may be there.
        partial: ids of the partial annotations that these answers replace.
    """

    snapshot: Snapshot
    upload: Upload = UNMARKED
    keys: frozenset[str] = frozenset()
    annotations: list[Record] = field(default_factory=list)
    error: str | None = None
    partial: list[str] = field(default_factory=list)


def digest(content: bytes) -> str:
    """What tells one content from another."""
    return hashlib.sha256(content).hexdigest()


def answers_of(dataset_id: str, item_ids: Sequence[str], model_name: str) -> dict[str, list[Record]]:
    """A model's answers on items of a dataset, by the item's id.

    Raises:
        RemoteError: they could not be listed.
    """
    condition = {
        "$and": [{"type": {"$in": ["text", "class"]}}, {"itemId": {"$in": list(item_ids)}}],
        "$or": [{f"metadata.{part}.model.name": model_name} for part in ("user", "system")],
    }
    found: dict[str, list[Record]] = defaultdict(list)
    for page in remote.pages(dataset_id, {"resource": "annotations", "filter": condition}):
        for annotation in page:
            if is_by(annotation, model_name):  # In a filter, a * in the name stands for anything.
                found[str(annotation.get("itemId"))].append(annotation)
    return found


def store(snapshot: Snapshot, annotations: Sequence[Record]) -> Submission:
    """Sends an item's answers; what went wrong is noted, and found out by `settle`."""
    upload = uploads.following(snapshot.answers)
    marked = uploads.marked(annotations, upload)
    keys = frozenset(key for one in annotations if (key := prompt_of(one)) is not None)
    sent = Submission(snapshot, upload, keys)
    try:
        for start in range(0, len(marked), BATCH):
            sent.annotations.extend(remote.annotate(snapshot.id, marked[start : start + BATCH]))
    except RemoteError as error:
        return replace(sent, error=str(error))
    return sent
