"""Downloads an item of the platform and parses it into an `Item`."""

import json
from concurrent.futures import Future
from typing import Any

from adapters.items.item import Item, Snapshot
from adapters.items.prompt_items import has_messages
from adapters.items.stored import Record
from adapters.platform import remote
from adapters.platform.remote import RemoteError
from adapters.platform.storing import answers_of, digest
from adapters.platform.uploads import judge
from adapters.prediction.failures import Failure

# A model's answers on items, by the item's id.
AnswersOf = dict[str, list[Record]]

# No conversation is longer, and 16 of them are read at a time.
MAX_BYTES = 8 * 2**20


def prepare(snapshot: Snapshot, answers: Future[AnswersOf], model_name: str) -> Item | Failure:
    """Downloads and reads an item; notes this model's answers and the content's digest in its snapshot.

    Args:
        answers: this model's on many items, which are being asked for meanwhile.
    """
    content = downloaded(snapshot)
    if isinstance(content, Failure):
        return content
    try:
        snapshot.answers = _answers(snapshot, answers, model_name)
    except RemoteError as error:
        return Failure(snapshot.id, None, f"its answers could not be listed: {error}")
    return parsed(snapshot, content, model_name)


def downloaded(snapshot: Snapshot) -> dict[str, Any] | Failure:
    """The JSON object that an item's content is; notes its digest."""
    if snapshot.size > MAX_BYTES:
        reason = f"it has {snapshot.size / 2**20:.0f} MB, a prompt item has at most {MAX_BYTES >> 20}"
        return Failure(snapshot.id, None, reason)
    try:
        # Not the SDK's download: that follows links, into files of this machine too.
        content = remote.sized_content(snapshot.id, snapshot.size)
    except RemoteError as error:
        return Failure(snapshot.id, None, f"it could not be downloaded ({error}): look at it and run again")
    try:
        prompts = json.loads(content)
    except (ValueError, RecursionError) as error:
        return Failure(snapshot.id, None, f"it could not be read ({type(error).__name__}: {error})")
    if not isinstance(prompts, dict):
        return Failure(snapshot.id, None, "its content is no JSON object: upload a prompt item")
    snapshot.digest = digest(content)
    return prompts


def parsed(snapshot: Snapshot, content: dict[str, Any], model_name: str) -> Item:
    """An item with its content; the answers in its snapshot that stand belong to its conversation."""
    return Item.parse(
        content,
        model_name,
        snapshot.filename or snapshot.id,
        answers=judge(snapshot.answers).standing if has_messages(content) else (),
        id=snapshot.id,
        filename=snapshot.filename,
        snapshot=snapshot,
    )


def _answers(snapshot: Snapshot, answers: Future[AnswersOf], model_name: str) -> list[Record]:
    try:
        found = answers.result()
    except RemoteError:  # Who cannot ask for those of all may ask for those of one.
        found = answers_of(snapshot.dataset_id, [snapshot.id], model_name)
    return found.get(snapshot.id, [])
