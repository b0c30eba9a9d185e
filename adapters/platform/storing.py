"""Lists a model's answers on items of the platform, and uploads new ones.

Each answer gets an upload tag (`uploads`). By these tags `settling` finds duplicate, partial and concurrent
uploads, whatever the platform replied to the requests.
"""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from adapters.items.item import Snapshot
from adapters.items.stored import Record, is_from_model, prompt_of
from adapters.platform import remote, uploads
from adapters.platform.errors import RemoteError
from adapters.platform.uploads import UNTAGGED, Upload

# Annotations per request.
BATCH = 100


@dataclass(frozen=True, slots=True)
class Submission:
    """An upload of answers to an item, for `settling` to reconcile.

    Attributes:
        snapshot: the item as it was when it was read.
        upload: the upload that the answers are tagged with.
        keys: keys of the prompts that they answer; empty if nothing was sent.
        annotations: the annotations that the platform has confirmed.
        error: why the upload may be incomplete; None if all answers were confirmed.
        partial: ids of the partial annotations that these answers replace.
    """

    snapshot: Snapshot
    upload: Upload = UNTAGGED
    keys: frozenset[str] = frozenset()
    annotations: list[Record] = field(default_factory=list)
    error: str | None = None
    partial: list[str] = field(default_factory=list)


def digest(content: bytes) -> str:
    """The SHA-256 of an item's content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def answers_of(dataset_id: str, item_ids: Sequence[str], model_name: str) -> dict[str, list[Record]]:
    """A model's answers on items of a dataset, by item id; an item without answers is not in it.

    Raises:
        RemoteError: the answers could not be listed.
    """
    condition = {
        "$and": [{"type": {"$in": ["text", "class"]}}, {"itemId": {"$in": list(item_ids)}}],
        "$or": [{f"metadata.{part}.model.name": model_name} for part in ("user", "system")],
    }
    found: dict[str, list[Record]] = defaultdict(list)
    for page in remote.pages(dataset_id, {"resource": "annotations", "filter": condition}):
        for annotation in page:
            if is_from_model(annotation, model_name):  # A filter reads a * in the name as a wildcard.
                found[str(annotation.get("itemId"))].append(annotation)
    return found


def store(snapshot: Snapshot, annotations: Sequence[Record]) -> Submission:
    """Uploads an item's answers, `BATCH` per request. An error is noted in the result and does not raise."""
    upload = uploads.next_upload(snapshot.answers)
    tagged = uploads.tagged(annotations, upload)
    keys = frozenset(key for one in annotations if (key := prompt_of(one)) is not None)
    sent = Submission(snapshot, upload, keys)
    try:
        for start in range(0, len(tagged), BATCH):
            sent.annotations.extend(remote.annotate(snapshot.id, tagged[start : start + BATCH]))
    except RemoteError as error:
        return replace(sent, error=str(error))
    return sent
