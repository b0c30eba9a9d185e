"""Downloads an item of the platform and parses it into an `Item`."""

import json
from concurrent.futures import Future
from typing import Any

from adapters.items.item import Item, Snapshot
from adapters.items.plain import PromptTemplate
from adapters.items.prompt_items import has_messages
from adapters.items.stored import Record
from adapters.platform import remote
from adapters.platform.errors import RemoteError
from adapters.platform.storing import answers_of, digest
from adapters.platform.uploads import classify
from adapters.prediction.failures import Failure
from engine.errors import PromptError

# A model's answers on items, by item id.
AnswersOf = dict[str, list[Record]]

# Far more than a conversation needs. 16 items are read at once, so this bounds their memory.
MAX_BYTES = 8 * 2**20


def prepare(
    snapshot: Snapshot, answers: Future[AnswersOf], model_name: str, template: PromptTemplate | None = None
) -> Item | Failure:
    """Downloads and parses an item; adds this model's answers and the content's digest to its snapshot.

    Args:
        answers: this model's answers on a chunk of items, which are listed in one request meanwhile.
        model_name: the model whose earlier answers belong to the conversation.
        template: makes prompt items of other items; None refuses them.
    """
    content = downloaded(snapshot, template)
    if isinstance(content, Failure):
        return content
    try:
        snapshot.answers = _answers(snapshot, answers, model_name)
    except RemoteError as error:
        return Failure(snapshot.id, None, f"its answers could not be listed: {error}")
    return parsed(snapshot, content, model_name)


def downloaded(snapshot: Snapshot, template: PromptTemplate | None = None) -> dict[str, Any] | Failure:
    """Downloads an item's JSON object, or makes one of its text; adds the digest to its snapshot."""
    if snapshot.size > MAX_BYTES:
        reason = f"it has {snapshot.size / 2**20:.0f} MB, a prompt item has at most {MAX_BYTES >> 20}"
        return Failure(snapshot.id, None, reason)
    try:
        # Not by the SDK's download, which follows links, also to files of this machine.
        download = remote.text_content if template else remote.sized_content
        content = download(snapshot.id, snapshot.size)
    except RemoteError as error:
        return Failure(
            snapshot.id, None, f"it could not be downloaded ({error}): check the item and run again"
        )
    try:
        prompts = template.item_of_file(content) if template else json.loads(content)
    except PromptError as error:
        return Failure(snapshot.id, None, str(error))
    except (ValueError, RecursionError) as error:
        return Failure(snapshot.id, None, f"it could not be read ({type(error).__name__}: {error})")
    if not isinstance(prompts, dict):
        return Failure(snapshot.id, None, "its content is not a JSON object: upload a prompt item")
    snapshot.digest = digest(content)
    return prompts


def parsed(snapshot: Snapshot, content: dict[str, Any], model_name: str) -> Item:
    """Parses an item; in messages, the current answers of its snapshot belong to the conversation."""
    return Item.parse(
        content,
        model_name,
        snapshot.filename or snapshot.id,
        answers=classify(snapshot.answers).current if has_messages(content) else (),
        id=snapshot.id,
        filename=snapshot.filename,
        snapshot=snapshot,
    )


def _answers(snapshot: Snapshot, answers: Future[AnswersOf], model_name: str) -> list[Record]:
    try:
        found = answers.result()
    except RemoteError:  # The request for a single item may work.
        found = answers_of(snapshot.dataset_id, [snapshot.id], model_name)
    return found.get(snapshot.id, [])
