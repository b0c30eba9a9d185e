"""Reconciles items after their answers were sent: verifies what is stored, and removes what it replaces."""

import logging
from collections import defaultdict
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

from adapters.items.item import Snapshot
from adapters.items.stored import Record
from adapters.platform import remote
from adapters.platform.remote import Refused, RemoteError, Unreadable
from adapters.platform.storing import Submission, answers_of, digest
from adapters.platform.uploads import ids_of, judge, upload_of
from adapters.prediction.failures import Failure

# Items that are looked at at the same time where they cannot be looked at together.
CONNECTIONS = 16

logger = logging.getLogger(__name__)


def settle(sent: Sequence[Submission], model_name: str) -> list[list[Record] | Failure]:
    """Looks at items after their answers were sent, and removes what is too much.

    Of each prompt the last whole upload stays, once, whoever has sent it. Where the answers did not arrive
    whole, or the item is another one by now, they are taken back, and those before them stay.

    Returns:
        For each the answers that are there now, or why there are none.
    """
    results: dict[int, list[Record] | Failure] = {}
    datasets: dict[str, list[int]] = defaultdict(list)
    for i, stored in enumerate(sent):
        datasets[stored.snapshot.dataset_id].append(i)
    for dataset_id, places in datasets.items():
        found = _settle_in(dataset_id, [sent[i] for i in places], model_name)
        results |= dict(zip(places, found, strict=True))
    return [results[i] for i in range(len(sent))]


def _settle_in(dataset_id: str, sent: Sequence[Submission], model_name: str) -> list[list[Record] | Failure]:
    """As `settle`, for items of one dataset."""
    ids = list({stored.snapshot.id for stored in sent})
    answers: dict[str, list[Record]] = {}
    try:
        with ThreadPoolExecutor(1) as pool:
            looking = pool.submit(look, dataset_id, ids)
            answers = answers_of(dataset_id, ids, model_name)
        items = looking.result()
    except RemoteError as error:
        if isinstance(error, Refused) and len(sent) > 1:
            half = len(sent) // 2
            parts = sent[:half], sent[half:]
            return [one for part in parts for one in _settle_in(dataset_id, part, model_name)]
        if isinstance(error, Unreadable) and len(sent) > 1:  # It takes all its tries each time.
            with ThreadPoolExecutor(CONNECTIONS) as pool:
                each = pool.map(lambda stored: _settle_in(dataset_id, [stored], model_name), sent)
                return [one for part in each for one in part]
        logger.warning("what these answers replace is still there (%s): %s", error, ", ".join(ids))
        settled = [_unseen(stored) for stored in sent]
    else:
        settled = [_settled(stored, items, answers.get(stored.snapshot.id, [])) for stored in sent]
    partial = [one for stored in sent for one in stored.partial]
    removed = list(dict.fromkeys([*partial, *(one for _, surplus in settled for one in surplus)]))
    left, reason = _remove(dataset_id, removed)
    if not left:
        return [result for result, _ in settled]
    named = ", ".join(
        stored.snapshot.id for stored, (_, surplus) in zip(sent, settled, strict=True) if left & set(surplus)
    )
    logger.warning("old answers could not be removed; the next run does (%s): %s", reason, named)
    return [
        _twice(stored, left, answers.get(stored.snapshot.id, []), reason) or result
        for stored, (result, _) in zip(sent, settled, strict=True)
    ]


def _remove(dataset_id: str, annotation_ids: Sequence[str]) -> tuple[set[str], str]:
    """Removes annotations, fewer at a time where that is refused; the ids of those that stay, and why."""
    try:
        remote.remove(dataset_id, annotation_ids)
    except RemoteError as error:
        if isinstance(error, Refused) and len(annotation_ids) > 1:
            half = len(annotation_ids) // 2
            left, reason = _remove(dataset_id, annotation_ids[:half])
            more, other = _remove(dataset_id, annotation_ids[half:])
            return left | more, reason or other
        return set(annotation_ids), str(error)
    return set(), ""


def look(dataset_id: str, item_ids: Sequence[str]) -> dict[str, Snapshot]:
    """Items of a dataset by id; one that is not there is left out.

    Raises:
        RemoteError: they could not be listed.
    """
    query = {"resource": "items", "filter": {"$and": [{"id": {"$in": list(item_ids)}}]}}
    return {
        item["id"]: Snapshot.of(item, dataset_id) for page in remote.pages(dataset_id, query) for item in page
    }


def _settled(
    stored: Submission, items: dict[str, Snapshot], listed: list[Record]
) -> tuple[list[Record] | Failure, list[str]]:
    """What is there of an item's new answers, and the ids of what is to be removed."""
    snapshot = stored.snapshot
    # The list may lag behind what was stored.
    answers = list({one["id"]: one for one in [*stored.annotations, *listed]}.values())
    mine = _of(stored, answers)
    try:
        changed = _changed(snapshot, items)
    except RemoteError as error:
        return Failure(snapshot.id, None, f"it could not be looked at again: {error}"), ids_of(mine)
    if changed:
        return Failure(snapshot.id, None, changed), ids_of(mine)
    judged = judge(answers)
    # Another run's that come after them are as good.
    missing = [key for key in stored.keys if judged.upload_at(key) < stored.upload]
    if missing:
        reason = stored.error or "the platform has not all of them"
        return Failure(snapshot.id, None, f"its answers could not be stored: {reason}"), ids_of(mine)
    return [one for one in mine if one["id"] not in judged.surplus], judged.surplus


def _changed(snapshot: Snapshot, items: dict[str, Snapshot]) -> str | None:
    """How an item changed since it was read, if it did."""
    now = items.get(snapshot.id)
    if now is None:
        return "it was deleted while it was answered"
    # Of an item with the same date nothing has changed; of another date perhaps no more than its folder.
    if (now.updated_at, now.size) == (snapshot.updated_at, snapshot.size):
        return None
    if digest(remote.sized_content(snapshot.id, now.size)) == snapshot.digest:
        return None
    return "it was changed while it was answered: run again"


def _twice(
    stored: Submission, left: Collection[str], listed: Collection[Record], reason: str
) -> Failure | None:
    """What is wrong where a copy of these very answers could not be removed."""
    if not any(one["id"] in left for one in _of(stored, listed)):
        return None
    text = f"some of its answers are stored twice, and could not be removed ({reason}): run again"
    return Failure(stored.snapshot.id, None, text)


def _of(stored: Submission, answers: Collection[Record]) -> list[Record]:
    """Those that were sent, of all answers on the item."""
    return [one for one in answers if stored.keys and upload_of(one) == stored.upload]


def _unseen(stored: Submission) -> tuple[list[Record] | Failure, list[str]]:
    if stored.error is None:
        return stored.annotations, []
    return Failure(stored.snapshot.id, None, f"its answers could not be stored: {stored.error}"), []
