"""Reconciles items after their answers were sent: verifies what is stored, and removes what it replaces."""

import logging
from collections import defaultdict
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor

from adapters.items.item import Snapshot
from adapters.items.stored import Record
from adapters.platform import remote
from adapters.platform.errors import Refused, RemoteError, Unreadable
from adapters.platform.storing import Submission, answers_of, digest
from adapters.platform.uploads import classify, ids_of, upload_of
from adapters.prediction.failures import Failure

# Items that are checked at once where they have to be checked one by one.
WORKERS = 16

logger = logging.getLogger(__name__)


def settle(sent: Sequence[Submission], model_name: str) -> list[list[Record] | Failure]:
    """Verifies uploads and removes obsolete annotations, with a few requests for all items.

    For each prompt the answers of the last complete upload are kept, whichever run sent it, and earlier and
    duplicate answers are removed. If an upload is incomplete, or its item was changed or deleted meanwhile,
    the upload's own answers are removed instead and the earlier ones are kept.

    Returns:
        For each submission its stored answers, or why it has none.
    """
    results: dict[int, list[Record] | Failure] = {}
    datasets: dict[str, list[int]] = defaultdict(list)
    for i, submission in enumerate(sent):
        datasets[submission.snapshot.dataset_id].append(i)
    for dataset_id, places in datasets.items():
        found = _settle_in(dataset_id, [sent[i] for i in places], model_name)
        results |= dict(zip(places, found, strict=True))
    return [results[i] for i in range(len(sent))]


def _settle_in(dataset_id: str, sent: Sequence[Submission], model_name: str) -> list[list[Record] | Failure]:
    """As `settle`, for items of one dataset."""
    ids = list({submission.snapshot.id for submission in sent})
    answers: dict[str, list[Record]] = {}
    try:
        with ThreadPoolExecutor(1) as pool:
            listing = pool.submit(list_items, dataset_id, ids)
            answers = answers_of(dataset_id, ids, model_name)
        items = listing.result()
    except RemoteError as error:
        if isinstance(error, Refused) and error.may_accept_fewer and len(sent) > 1:
            half = len(sent) // 2
            parts = sent[:half], sent[half:]
            return [one for part in parts for one in _settle_in(dataset_id, part, model_name)]
        if isinstance(error, Unreadable) and len(sent) > 1:  # Not by halves: each takes all its tries.
            with ThreadPoolExecutor(WORKERS) as pool:
                each = pool.map(lambda submission: _settle_in(dataset_id, [submission], model_name), sent)
                return [one for part in each for one in part]
        logger.warning("replaced answers were not removed (%s): %s", error, ", ".join(ids))
        settled = [_unverified(submission) for submission in sent]
    else:
        settled = [
            _settled(submission, items, answers.get(submission.snapshot.id, [])) for submission in sent
        ]
    partial = [one for submission in sent for one in submission.partial]
    obsolete = list(dict.fromkeys([*partial, *(one for _, ids in settled for one in ids)]))
    left, reason = _remove(dataset_id, obsolete)
    if not left:
        return [result for result, _ in settled]
    named = ", ".join(
        submission.snapshot.id for submission, (_, ids) in zip(sent, settled, strict=True) if left & set(ids)
    )
    logger.warning("old answers could not be removed; the next run does (%s): %s", reason, named)
    return [
        _duplicate_failure(submission, left, answers.get(submission.snapshot.id, []), reason) or result
        for submission, (result, _) in zip(sent, settled, strict=True)
    ]


def _remove(dataset_id: str, annotation_ids: Sequence[str]) -> tuple[set[str], str]:
    """Removes annotations, in smaller requests if a large one is rejected.

    Returns:
        The ids of the annotations that were not removed, and why.
    """
    try:
        remote.remove(dataset_id, annotation_ids)
    except RemoteError as error:
        if isinstance(error, Refused) and error.may_accept_fewer and len(annotation_ids) > 1:
            half = len(annotation_ids) // 2
            left, reason = _remove(dataset_id, annotation_ids[:half])
            more, other = _remove(dataset_id, annotation_ids[half:])
            return left | more, reason or other
        return set(annotation_ids), str(error)
    return set(), ""


def list_items(dataset_id: str, item_ids: Sequence[str]) -> dict[str, Snapshot]:
    """Snapshots of items of a dataset by id; an item that does not exist is not in it.

    Raises:
        RemoteError: the items could not be listed.
    """
    query = {"resource": "items", "filter": {"$and": [{"id": {"$in": list(item_ids)}}]}}
    return {
        item["id"]: Snapshot.of(item, dataset_id) for page in remote.pages(dataset_id, query) for item in page
    }


def _settled(
    submission: Submission, items: dict[str, Snapshot], listed: list[Record]
) -> tuple[list[Record] | Failure, list[str]]:
    """Decides about one upload.

    Returns:
        Its stored answers or why it has none, and the ids of the annotations to remove.
    """
    snapshot = submission.snapshot
    # The listing may not have the newest annotations yet.
    answers = list({one["id"]: one for one in [*submission.annotations, *listed]}.values())
    own = _own_answers(submission, answers)
    try:
        changed = _changed(snapshot, items)
    except RemoteError as error:
        reason = f"whether it has changed could not be checked: {error}"
        return Failure(snapshot.id, None, reason), ids_of(own)
    if changed:
        return Failure(snapshot.id, None, changed), ids_of(own)
    state = classify(answers)
    # A later upload of another run counts as well.
    missing = [key for key in submission.keys if state.upload_at(key) < submission.upload]
    if missing:
        reason = submission.error or "the platform has not all of them"
        return Failure(snapshot.id, None, f"its answers could not be stored: {reason}"), ids_of(own)
    return [one for one in own if one["id"] not in state.obsolete], state.obsolete


def _changed(snapshot: Snapshot, items: dict[str, Snapshot]) -> str | None:
    """Why an item's answers do not fit it any more: it was changed or deleted since it was read."""
    now = items.get(snapshot.id)
    if now is None:
        return "it was deleted while it was answered"
    # With another date its content may still be the same: only its folder or metadata was changed.
    if (now.updated_at, now.size) == (snapshot.updated_at, snapshot.size):
        return None
    if digest(remote.sized_content(snapshot.id, now.size)) == snapshot.digest:
        return None
    return "it was changed while it was answered: run again"


def _duplicate_failure(
    submission: Submission, left: Collection[str], listed: Collection[Record], reason: str
) -> Failure | None:
    """The failure of an upload of which a duplicate answer could not be removed; None if there is none."""
    if not any(one["id"] in left for one in _own_answers(submission, listed)):
        return None
    text = f"some of its answers are stored twice, and could not be removed ({reason}): run again"
    return Failure(submission.snapshot.id, None, text)


def _own_answers(submission: Submission, answers: Collection[Record]) -> list[Record]:
    """The answers of this upload, among all answers on the item."""
    return [one for one in answers if submission.keys and upload_of(one) == submission.upload]


def _unverified(submission: Submission) -> tuple[list[Record] | Failure, list[str]]:
    """As `_settled`, for an item that could not be listed: the platform's replies to the upload decide."""
    if submission.error is None:
        return submission.annotations, []
    reason = f"its answers could not be stored: {submission.error}"
    return Failure(submission.snapshot.id, None, reason), []
