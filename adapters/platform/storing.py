"""Answers on the platform's items: which are sent, which are whole, which replace others.

Each answer carries a mark: the upload it belongs to, its number there, and how many there are. So what was
stored twice, half, or by two runs at once is told apart by looking, whatever a request was answered.
"""

import hashlib
import uuid
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from adapters.platform import remote
from adapters.platform.remote import Record, RemoteError
from adapters.stored import is_by, mark_of, prompt_of, size_of, text_at

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
    def of(cls, item: Record) -> "Seen":
        """Takes an item's record."""
        filename, updated_at = text_at(item, "filename") or "", text_at(item, "updatedAt") or ""
        return cls(item["id"], item["datasetId"], filename, size_of(item), updated_at)

    @classmethod
    def of_entity(cls, item: Any) -> "Seen":
        """Takes the SDK's entity of an item."""
        size = size_of({"metadata": item.metadata})
        return cls(item.id, item.dataset_id, item.filename, size, item.updated_at or "")


@dataclass(frozen=True, slots=True)
class Stored:
    """An item whose answers were sent.

    Attributes:
        upload: the mark of the answers.
        keys: the prompts they answer.
        annotations: what the platform returned for them.
        error: why not all of them may be there.
        drafts: ids of what these answers stand in for, whether they arrived or not.
    """

    seen: Seen
    upload: str
    keys: frozenset[str]
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
            # In a filter, a * in the name stands for anything.
            if is_by(annotation, model_name) and prompt_of(annotation) is not None:
                found[annotation["itemId"]].append(annotation)
    return found


def store(seen: Seen, annotations: Sequence[Record]) -> Stored:
    """Sends an item's answers; what went wrong is noted, and found out by `settle`."""
    upload = uuid.uuid4().hex
    marked = _marked(annotations, upload)
    stored = Stored(seen, upload, frozenset(map(key_of, annotations)))
    try:
        for start in range(0, len(marked), BATCH):
            path = f"/items/{seen.id}/annotations"
            stored.annotations.extend(remote.ask("POST", path, marked[start : start + BATCH]).json())
    except (RemoteError, ValueError) as error:
        return replace(stored, error=str(error))
    return stored


def replaced(answers: Collection[Record], keys: Collection[str]) -> list[str]:
    """Ids of answers to these prompts that a newer complete upload, or a copy, stands in for.

    Two runs that look at the same answers choose the same ones; so one of two that run at once stays.
    """
    surplus: list[Record] = []
    for key, uploads in _by_upload(answers).items():
        whole = [began for began, group in uploads.items() if _is_whole(group)]
        if key not in keys or not whole:
            continue
        newest = max(whole)
        for began, group in uploads.items():
            surplus += group if began < newest else []
        latest = {mark_of(one).get("number", one["id"]): one for one in uploads[newest]}
        surplus += [
            one for one in uploads[newest] if one is not latest[mark_of(one).get("number", one["id"])]
        ]
    return ids_of(surplus)


def whole(answers: Collection[Record]) -> list[Record]:
    """The answers that are complete: no drafts, and nothing of an upload that broke off."""
    uploads = [group for uploads in _by_upload(answers).values() for group in uploads.values()]
    return [one for group in uploads if _is_whole(group) for one in group]


def answered(answers: Collection[Record]) -> set[str]:
    """The prompts that have a complete answer."""
    return set(map(key_of, whole(answers)))


def key_of(annotation: Record) -> str:
    """The prompt that an annotation answers."""
    return prompt_of(annotation) or ""


def _marked(annotations: Sequence[Record], upload: str) -> list[Record]:
    """The annotations with their marks: their upload, their number within a prompt, and how many that has."""
    counts, numbers = Counter(map(key_of, annotations)), Counter[str]()
    marked = []
    for annotation in annotations:
        key, metadata = key_of(annotation), annotation["metadata"]
        mark = {"id": upload, "number": numbers[key], "of": counts[key]}
        numbers[key] += 1
        user = {**metadata.get("user", {}), "upload": mark}
        marked.append({**annotation, "metadata": {**metadata, "user": user}})
    return marked


# When an upload began, and its id; ("", "") for all that other programs stored.
_Began = tuple[str, str]


def _by_upload(answers: Collection[Record]) -> dict[str, dict[_Began, list[Record]]]:
    """Answers by prompt and upload, the oldest of each first."""
    groups: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for one in sorted(answers, key=lambda one: (str(one.get("createdAt", "")), one["id"])):
        groups[key_of(one)][str(mark_of(one).get("id", ""))].append(one)
    return {
        key: {
            (str(group[0].get("createdAt", "")) if upload else "", upload): group
            for upload, group in uploads.items()
        }
        for key, uploads in groups.items()
    }


def _is_whole(group: Sequence[Record]) -> bool:
    """Whether each answer of an upload to a prompt is there."""
    return len({mark_of(one).get("number") for one in group}) == mark_of(group[0]).get("of", 1)


def ids_of(annotations: Sequence[Record]) -> list[str]:
    """The ids of annotations."""
    return [annotation["id"] for annotation in annotations]
