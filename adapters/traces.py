"""`dl.LLMTrace` items: a list of messages in one JSON file. Pure.

A message's prompt key is its place in the list, as text.
"""

import logging
from collections.abc import Mapping
from typing import Any, get_args

from engine.errors import PromptError
from engine.types import Image, Message, Part, Role

logger = logging.getLogger(__name__)

ROLES: dict[str, Role] = {role: role for role in get_args(Role)} | {"developer": "system"}


def is_trace(item: Mapping[str, Any]) -> bool:
    """Whether an item's JSON is a trace."""
    metadata = item.get("metadata")
    said = isinstance(metadata, Mapping) and metadata.get("dltype") == "llm_trace"
    return said or ("prompts" not in item and isinstance(item.get("messages"), list))


def conversation(item: Mapping[str, Any], name: str) -> list[tuple[str, Message]]:
    """A trace's messages up to the user's last, by key; what a text model cannot read is left out.

    Raises:
        PromptError: it has no list of messages.
    """
    given = item.get("messages")
    if not isinstance(given, list):
        raise PromptError("'messages' must be a list of messages: it is a trace")
    messages = [
        (str(place), message)
        for place, one in enumerate(given)
        if (message := _message(one, f"{name}: message {place}")) is not None
    ]
    asked = [i for i, (_, message) in enumerate(messages) if message.role == "user"]
    return messages[: asked[-1] + 1] if asked else []


def _message(given: Any, place: str) -> Message | None:
    role = _role(given)
    if role is None:
        logger.warning("%s is by nobody of %s: left out", place, ", ".join(ROLES))
        return None
    content = given.get("content")
    parts = [part for one in _elements(content) if (part := _part(one)) is not None]
    if len(parts) < len(_elements(content)):
        logger.warning("%s: what is no text and no image is left out", place)
    return Message(role, tuple(parts)) if parts else None


def _elements(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [] if content is None else [content]


def _part(element: Any) -> Part | None:
    """A content element as the chat-completion API has them."""
    if isinstance(element, Mapping):
        if element.get("type") == "image_url":
            image = element.get("image_url")
            url = image.get("url") if isinstance(image, Mapping) else image
            return Image(url) if isinstance(url, str) and url.strip() else None
        element = element.get("text") if element.get("type", "text") == "text" else None
    return element if isinstance(element, str) and element.strip() else None


def _role(message: Any) -> Role | None:
    role = message.get("role") if isinstance(message, Mapping) else None
    return ROLES.get(role.lower()) if isinstance(role, str) else None
