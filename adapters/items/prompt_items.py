"""Reads a prompt item's JSON, or a trace's, into conversations. Pure: no SDK, no network, no model.

Two formats are in use, told apart prompt key by prompt key. A prompt that is a dict holds questions: it is
a conversation of its own, its values in order are the user's turns, and all of them are asked. A prompt
that is a list is one message, its elements the parts: all such prompts together are one conversation.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from adapters.items import traces
from adapters.items.stored import answer_of, is_from_model, prompt_of, rank_of, text_at
from engine.errors import PromptError
from engine.types import ROLES, Dialogue, Image, Message, Part, Role, Turn

logger = logging.getLogger(__name__)


def read(
    item: Mapping[str, Any], name: str, earlier: Mapping[str, str]
) -> tuple[list[Dialogue], dict[str, PromptError]]:
    """The conversations of a prompt item that are to be answered, in file order.

    Args:
        item: the item's JSON.
        name: the item's name in warnings.
        earlier: earlier answers to messages, by prompt key.

    Returns:
        The dialogues and, by prompt key, the error of each prompt that cannot be read.

    Raises:
        PromptError: the item is not a prompt item, or has no question.
    """
    if isinstance(item, Mapping) and traces.is_trace(item):
        found = _conversation(traces.conversation(item, name), {}, name)
        if not found:
            raise PromptError("there is nothing to ask: no message has a user's text or image")
        return found, {}
    dialogues: list[Dialogue] = []
    errors: dict[str, PromptError] = {}
    messages: list[tuple[str | None, Message]] = []
    place_of_messages = 0
    for key, prompt in _prompts(item).items():
        place = f"{name}: prompt {key!r}"
        if isinstance(prompt, list):
            if not messages:
                place_of_messages = len(dialogues)
            messages += [(key, message) for message in _message(prompt, place)]
        elif isinstance(prompt, Mapping) and not isinstance(prompt.get("mimetype"), str):
            turns = tuple(Turn(key, (question,)) for question in _questions(prompt, place))
            dialogues += [Dialogue(key, (), turns)] if turns else []
        else:
            errors[key] = PromptError(
                "it is neither a list of elements nor an object of questions: make it one of them"
            )
    dialogues[place_of_messages:place_of_messages] = _conversation(messages, earlier, name)
    if not dialogues:
        named = (f"prompt {key!r}: {error}" for key, error in errors.items())
        reasons = "; ".join(named) or "no prompt has a user's text or image"
        raise PromptError(f"there is nothing to ask: {reasons}")
    return dialogues, errors


def question_item(text: str) -> dict[str, Any]:
    """A prompt item with one question."""
    return {"prompts": {"1": {"1": {"mimetype": "application/text", "value": text}}}}


def as_item(messages: Mapping[str, Message], answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A prompt item's JSON in the messages format: what `read` reads.

    Args:
        messages: by prompt key.
        answers: to these, as `annotations.as_dict` makes them.
    """
    return {
        "shebang": "dataloop",
        "metadata": {"dltype": "prompt"},
        "prompts": {key: _elements(message) for key, message in messages.items()},
        "annotations": list(answers),
    }


def _elements(message: Message) -> list[dict[str, Any]]:
    parts = (
        {"mimetype": "image/*", "value": part.url}
        if isinstance(part, Image)
        else {"mimetype": "application/text", "value": part}
        for part in message.parts
    )
    return [*parts, {"mimetype": "metadata", "value": {"role": message.role}}]


def has_messages(item: Mapping[str, Any]) -> bool:
    """Whether a prompt of the item is a list: then its earlier answers belong to the conversation."""
    prompts = item.get("prompts")
    return isinstance(prompts, Mapping) and any(isinstance(prompt, list) for prompt in prompts.values())


def earlier_answers(annotations: Sequence[Any], model_name: str) -> dict[str, str]:
    """A model's answers among an item's annotations, the newest by prompt key; of several the surest."""
    dated: list[tuple[str, str, str]] = []
    for annotation in annotations:
        key, text = prompt_of(annotation), answer_of(annotation)
        if not is_from_model(annotation, model_name) or rank_of(annotation) > 1:
            continue
        if key is not None and text and text.strip():
            dated.append((text_at(annotation, "createdAt") or "", key, text))
    return {key: text for _, key, text in sorted(dated, key=lambda answer: answer[0])}


def _prompts(item: Any) -> Mapping[str, Any]:
    if not isinstance(item, Mapping):
        raise PromptError(f"a prompt item is a JSON object with 'prompts', this is {_kind_of_json(item)}")
    if "prompts" not in item:
        raise PromptError("no prompt item: its JSON has no 'prompts', an object of prompts by key")
    prompts = item["prompts"]
    if not isinstance(prompts, Mapping):
        raise PromptError(f"'prompts' must be an object of prompts by key, it is {_kind_of_json(prompts)}")
    if not prompts:
        raise PromptError("'prompts' is empty: add a prompt")
    return prompts


def _questions(prompt: Mapping[str, Any], place: str) -> list[Message]:
    """A dict prompt's user messages; an image alone belongs to the text question after it."""
    messages: list[Message] = []
    images: list[Part] = []
    for question in prompt.values():
        if _mimetype(question) == "metadata":
            logger.warning("%s: metadata among questions is ignored", place)
            continue
        part = _part(question, place)
        if isinstance(part, Image):
            images.append(part)
        elif part is not None:
            messages.append(Message("user", (*images, part)))
            images = []
    if images:
        logger.warning("%s: no question follows the last image, which is skipped", place)
    if not messages:
        logger.warning("%s: it has no question and is skipped", place)
    return messages


def _message(prompt: list[Any], place: str) -> list[Message]:
    """A list prompt's one message, or none where it has nothing to say."""
    role: Role = "user"
    parts: list[Part] = []
    for element in prompt:
        if _mimetype(element) == "metadata":
            role = _role(element.get("value"), role, place)
        elif (part := _part(element, place)) is not None:
            parts.append(part)
    if not parts:
        logger.warning("%s: it has no text and no image and is skipped", place)
        return []
    return [Message(role, tuple(parts))]


def _role(metadata: Any, otherwise: Role, place: str) -> Role:
    """The role that a metadata element's value sets."""
    if not isinstance(metadata, Mapping):
        logger.warning("%s: metadata that is %s is ignored", place, _kind_of_json(metadata))
        return otherwise
    role = metadata.get("role", otherwise)
    spelled = role.lower() if isinstance(role, str) else None
    for known in ROLES:
        if known == spelled:
            return known
    logger.warning("%s: its role is none of %s: taken as user", place, ", ".join(ROLES))
    return "user"


def _part(element: Any, place: str) -> Part | None:
    """An element's text or image; what is neither is skipped with a warning."""
    mimetype = _mimetype(element)
    value = element.get("value") if isinstance(element, Mapping) else element
    if mimetype not in ("text", "image"):
        logger.warning("%s: an element of type %.40r is skipped", place, mimetype)
    elif not isinstance(value, str):
        logger.warning("%s: an element whose %s is %s is skipped", place, mimetype, _kind_of_json(value))
    elif not value.strip():
        logger.warning("%s: an element with an empty %s is skipped", place, mimetype)
    else:
        return Image(value) if mimetype == "image" else value
    return None


def _mimetype(element: Any) -> str:
    """ "text", "image" or "metadata"; anything else is what the element says, or is."""
    if isinstance(element, str):
        return "text"
    if not isinstance(element, Mapping):
        return _kind_of_json(element)
    mimetype = element.get("mimetype")
    if mimetype is None:
        return "text"
    if not isinstance(mimetype, str):
        return _kind_of_json(mimetype)
    full = mimetype.split(";")[0].strip().lower()
    major = full.split("/")[0]
    return "text" if full == "application/text" else major if major in ("text", "image", "metadata") else full


def _conversation(
    messages: Sequence[tuple[str | None, Message]], answers: Mapping[str, str], name: str
) -> list[Dialogue]:
    """The one dialogue of an item's messages, or none if there is no user message.

    Open turns are the user messages without an answer, and the last one, whose earlier answer is replaced.
    Tool calls and results have no key: they are no answers, and belong to the turn before them.

    Args:
        messages: messages with their keys, in order.
        answers: earlier answers by prompt key.
        name: the item's name in warnings.
    """
    asked = [i for i, (key, message) in enumerate(messages) if key is not None and message.role == "user"]
    if not asked:
        return []
    behind = messages[asked[-1] + 1 :]
    returned = [message for _, message in behind] if any(key is None for key, _ in behind) else []
    if behind and not returned:
        logger.warning("%s: messages after the user's last, %r, are not used", name, messages[asked[-1]][0])
    history: tuple[Message, ...] = ()
    turns: list[Turn] = []
    said: list[Message] = []
    for position, (key, message) in enumerate(messages[: asked[-1] + 1]):
        said.append(message)
        if key is None or message.role != "user":
            continue
        if position < asked[-1]:
            next_key, following = messages[position + 1]
            if next_key is None or following.role == "assistant":
                continue  # The file itself has its answer, or a tool call that follows from it.
            if key in answers:
                said.append(Message("assistant", (answers[key],)))
                continue
        if not turns:
            history, said = tuple(said[:-1]), [message]
        turns.append(Turn(key, (*said, *(returned if position == asked[-1] else ()))))
        said = []
    return [Dialogue(turns[0].key, history, tuple(turns))]


def _kind_of_json(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, Mapping):
        return "an object"
    kinds = {str: "text", bool: "a boolean", int: "a number", float: "a number", list: "a list"}
    return kinds.get(type(value), "no JSON")
