"""An item of the platform → what a model file is asked."""

import json
from concurrent.futures import Future
from typing import Any

from adapters.items.prompt_items import has_messages, read
from adapters.items.traces import is_trace
from adapters.platform import remote
from adapters.platform.remote import Record, RemoteError
from adapters.platform.storing import Seen, answers_of, digest
from adapters.platform.uploads import judge
from adapters.prediction.failures import Failure
from engine.errors import PromptError

# A model's answers on items, by the item's id.
AnswersOf = dict[str, list[Record]]

# No conversation is longer, and 16 of them are read at a time.
MAX_BYTES = 8 * 2**20


def parsed(item_id: str, content: bytes) -> dict[str, Any] | Failure:
    """The JSON object that an item's content is."""
    try:
        prompts = json.loads(content)
    except (ValueError, RecursionError) as error:
        return Failure(0, item_id, None, f"it could not be read ({type(error).__name__}: {error})")
    if not isinstance(prompts, dict):
        return Failure(0, item_id, None, "its content is no JSON object: upload a prompt item")
    return prompts


def prepare(seen: Seen, answers: Future[AnswersOf], model_name: str) -> dict[str, Any] | Failure:
    """An item as a model file reads it: its JSON, id, file name and (for messages) answers; notes its digest.

    Args:
        answers: this model's on many items, which are being asked for meanwhile.
    """
    if seen.size > MAX_BYTES:
        reason = f"it has {seen.size / 2**20:.0f} MB, a prompt item has at most {MAX_BYTES >> 20}"
        return Failure(0, seen.id, None, reason)
    try:
        content = remote.sized_content(seen.id, seen.size)
    except RemoteError as error:
        return Failure(0, seen.id, None, f"it could not be downloaded ({error}): look at it and run again")
    prompts = parsed(seen.id, content)
    if isinstance(prompts, Failure):
        return prompts
    try:
        seen.answers = _answers(seen, answers, model_name)
    except RemoteError as error:
        return Failure(0, seen.id, None, f"its answers could not be listed: {error}")
    seen.digest = digest(content)
    prepared = {**prompts, "id": seen.id, "filename": seen.filename}
    if has_messages(prompts):
        prepared["annotations"] = judge(seen.answers).standing
    return prepared


def _answers(seen: Seen, answers: Future[AnswersOf], model_name: str) -> list[Record]:
    try:
        found = answers.result()
    except RemoteError:  # Who cannot ask for those of all may ask for those of one.
        found = answers_of(seen.dataset_id, [seen.id], model_name)
    return found.get(seen.id, [])


def unanswered(item: dict[str, Any], answers: list[Record], model_name: str) -> dict[str, Any] | None:
    """The item with the prompts that have no answer that stands; None where all have one.

    Messages, and a trace, are one conversation: all of them stay while one is open.
    """
    there = judge(answers).answered
    if not there:
        return item
    try:
        dialogues, _ = read(item, model_name)
    except PromptError:
        return item
    open_keys = {turn.key for dialogue in dialogues for turn in dialogue.turns} - there
    if is_trace(item):
        return item if open_keys else None
    prompts = item["prompts"]
    messages = any(isinstance(prompts[key], list) for key in open_keys)
    left = {
        key: prompt
        for key, prompt in prompts.items()
        if (messages if isinstance(prompt, list) else key not in there)
    }
    return {**item, "prompts": left} if left else None
