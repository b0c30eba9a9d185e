"""Answers on the platform's items: the new ones are stored first, then those that they replace are removed.

Each answer carries a mark: the upload it belongs to, its number there, and how many there are. So what was
stored twice, half, or by two runs at once is told apart by looking, whatever a request was answered.
"""

import hashlib
import logging
import uuid
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from adapters.failures import Failure
from adapters.platform import remote
from adapters.platform.remote import Record, RemoteError

logger = logging.getLogger(__name__)

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
        size = item.get("metadata", {}).get("system", {}).get("size") or 0
        return cls(item["id"], item["datasetId"], item.get("filename", ""), size, item.get("updatedAt", ""))

    @classmethod
    def of_entity(cls, item: Any) -> "Seen":
        """Takes the SDK's entity of an item."""
        size = item.metadata.get("system", {}).get("size") or 0
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


def look(dataset_id: str, item_ids: Sequence[str]) -> dict[str, Seen]:
    """Items of a dataset by id; one that is not there is left out.

    Raises:
        RemoteError: they could not be listed.
    """
    query = {"resource": "items", "filter": {"$and": [{"id": {"$in": list(item_ids)}}]}}
    return {item["id"]: Seen.of(item) for page in remote.pages(dataset_id, query) for item in page}


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
            metadata = annotation.get("metadata", {})
            names = [(metadata.get(part) or {}).get("model", {}).get("name") for part in ("user", "system")]
            if model_name in names:  # In a filter, a * in the name stands for anything.
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


def settle(sent: Sequence[Stored], model_name: str) -> list[list[Record] | Failure]:
    """Looks at items after their answers were sent, and removes what is too much.

    Of each answered prompt the newest complete upload stays, once. Where the answers did not arrive whole, or
    the item is another one by now, they are taken back, and those before them stay.

    Returns:
        For each the answers that are there now, or why there are none.
    """
    results: dict[int, list[Record] | Failure] = {}
    datasets: dict[str, list[int]] = defaultdict(list)
    for i, stored in enumerate(sent):
        datasets[stored.seen.dataset_id].append(i)
    for dataset_id, places in datasets.items():
        chosen = [sent[i] for i in places]
        ids = list({stored.seen.id for stored in chosen})
        try:
            with ThreadPoolExecutor(1) as pool:
                looking = pool.submit(look, dataset_id, ids)
                answers = answers_of(dataset_id, ids, model_name)
            items = looking.result()
        except RemoteError as error:
            if len(chosen) > 1:  # Who cannot look at all of them may look at some.
                half = len(chosen) // 2
                parts = settle(chosen[:half], model_name) + settle(chosen[half:], model_name)
                results |= dict(zip(places, parts, strict=True))
                continue
            logger.warning("what the answers of item %s replace is still there: %s", ids[0], error)
            answers, settled = {}, [_unseen(stored) for stored in chosen]
        else:
            settled = [_settled(stored, items, answers[stored.seen.id]) for stored in chosen]
        drafts = [one for stored in chosen for one in stored.drafts]
        removed = list(dict.fromkeys([*drafts, *(one for _, surplus in settled for one in surplus)]))
        try:
            remote.remove(dataset_id, removed)
        except RemoteError as error:
            named = ", ".join(
                stored.seen.id for stored, (_, surplus) in zip(chosen, settled, strict=True) if surplus
            )
            logger.warning("old answers could not be removed; the next run does (%s): %s", error, named)
            settled = [
                (_twice(stored, surplus, answers.get(stored.seen.id, []), error) or result, surplus)
                for stored, (result, surplus) in zip(chosen, settled, strict=True)
            ]
        results |= {i: result for i, (result, _) in zip(places, settled, strict=True)}
    return [results[i] for i in range(len(sent))]


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
        latest = {_mark(one).get("number", one["id"]): one for one in uploads[newest]}
        surplus += [one for one in uploads[newest] if one is not latest[_mark(one).get("number", one["id"])]]
    return _ids(surplus)


def whole(answers: Collection[Record]) -> list[Record]:
    """The answers that are complete: no drafts, and nothing of an upload that broke off."""
    uploads = [group for uploads in _by_upload(answers).values() for group in uploads.values()]
    return [one for group in uploads if _is_whole(group) for one in group]


def answered(answers: Collection[Record]) -> set[str]:
    """The prompts that have a complete answer."""
    return set(map(key_of, whole(answers)))


def key_of(annotation: Record) -> str:
    """The prompt that an annotation answers."""
    return str((annotation.get("metadata", {}).get("system") or {}).get("promptId"))


def _settled(
    stored: Stored, items: dict[str, Seen], listed: list[Record]
) -> tuple[list[Record] | Failure, list[str]]:
    """What is there of an item's new answers, and the ids of what is to be removed."""
    seen = stored.seen
    # The list may lag behind what was stored.
    answers = list({one["id"]: one for one in [*stored.annotations, *listed]}.values())
    mine = [one for one in answers if _mark(one).get("id") == stored.upload]
    try:
        changed = _changed(seen, items)
    except RemoteError as error:
        return Failure(0, seen.id, None, f"it could not be looked at again: {error}"), _ids(mine)
    if changed:
        return Failure(0, seen.id, None, changed), _ids(mine)
    if stored.error is not None and answered(mine) != stored.keys:
        return Failure(0, seen.id, None, f"its answers could not be stored: {stored.error}"), _ids(mine)
    surplus = replaced(answers, stored.keys)
    return [one for one in mine if one["id"] not in surplus], surplus


def _changed(seen: Seen, items: dict[str, Seen]) -> str | None:
    """How an item changed since it was read, if it did."""
    now = items.get(seen.id)
    if now is None:
        return "it was deleted while it was answered"
    # Of an item with the same date nothing has changed; of another date perhaps no more than its folder.
    if now.updated_at == seen.updated_at or digest(remote.content(seen.id)) == seen.digest:
        return None
    return "it was changed while it was answered: run again"


def _twice(
    stored: Stored, surplus: Collection[str], listed: Collection[Record], error: RemoteError
) -> Failure | None:
    """What is wrong where a copy of these very answers could not be removed."""
    if not any(one["id"] in surplus and _mark(one).get("id") == stored.upload for one in listed):
        return None
    reason = f"some of its answers are stored twice, and could not be removed ({error}): run again"
    return Failure(0, stored.seen.id, None, reason)


def _unseen(stored: Stored) -> tuple[list[Record] | Failure, list[str]]:
    if stored.error is None:
        return stored.annotations, []
    return Failure(0, stored.seen.id, None, f"its answers could not be stored: {stored.error}"), []


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


def _mark(annotation: Record) -> Record:
    """The mark of an answer; an empty one where another program stored it."""
    mark = (annotation.get("metadata", {}).get("user") or {}).get("upload")
    return mark if isinstance(mark, dict) else {}


# When an upload began, and its id; ("", "") for all that other programs stored.
_Began = tuple[str, str]


def _by_upload(answers: Collection[Record]) -> dict[str, dict[_Began, list[Record]]]:
    """Answers by prompt and upload, the oldest of each first."""
    groups: dict[str, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for one in sorted(answers, key=lambda one: (str(one.get("createdAt", "")), one["id"])):
        groups[key_of(one)][str(_mark(one).get("id", ""))].append(one)
    return {
        key: {
            (str(group[0].get("createdAt", "")) if upload else "", upload): group
            for upload, group in uploads.items()
        }
        for key, uploads in groups.items()
    }


def _is_whole(group: Sequence[Record]) -> bool:
    """Whether each answer of an upload to a prompt is there."""
    return len({_mark(one).get("number") for one in group}) == _mark(group[0]).get("of", 1)


def _ids(annotations: Sequence[Record]) -> list[str]:
    return [annotation["id"] for annotation in annotations]
