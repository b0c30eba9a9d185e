"""`dl.LLMTrace` items: a list of messages in one JSON file. Pure.

A message's prompt key is its place in the list, as text.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from adapters.items.stored import get_path, text_at
from engine.errors import PromptError
from engine.types import OPENAI_ROLES, Image, Message, Part

logger = logging.getLogger(__name__)

# Roles of messages with a tool's result.
TOOLS = ("tool", "function")
# Replaces an answer without text, such as audio.
NO_TEXT = "[an answer that is no text]"


def is_trace(item: Mapping[str, Any]) -> bool:
    """Whether an item's JSON is a trace."""
    said = get_path(item, "metadata", "dltype") == "llm_trace"
    return said or ("prompts" not in item and isinstance(item.get("messages"), list))


def conversation(item: Mapping[str, Any], name: str) -> list[tuple[str | None, Message]]:
    """The messages of a trace with their keys, up to the last user message and the tool results after it.

    A tool call becomes text of the assistant, and a tool result becomes a user message, so that it has no
    authority. Both have no key: they are no questions. Content other than text and images is left out.

    Args:
        name: the item's name in warnings.

    Raises:
        PromptError: there is no list of messages, or a tool's arguments or result are nested too deep.
    """
    given = item.get("messages")
    if not isinstance(given, list):
        raise PromptError("'messages' must be a list of messages: it is a trace")
    names: dict[str, str] = {}
    messages = [
        message
        for place, one in enumerate(given)
        for message in _messages(one, str(place), names, f"{name}: message {place}")
    ]
    asked = [i for i, (key, message) in enumerate(messages) if key is not None and message.role == "user"]
    returned = [i for i, (key, message) in enumerate(messages) if key is None and message.role == "user"]
    return messages[: max([*asked[-1:], *returned[-1:]]) + 1] if asked else []


def question(item: Mapping[str, Any], name: str) -> str:
    """The text of the last user message; empty if there is none.

    Raises:
        PromptError: as `conversation`.
    """
    said = [m.text for key, m in conversation(item, name) if key is not None and m.role == "user"]
    return said[-1] if said else ""


def _messages(
    given: Any, key: str, names: dict[str, str], place: str
) -> Iterator[tuple[str | None, Message]]:
    """Converts one message of a trace: tool results first, then text, images and tool calls.

    Args:
        key: the message's key.
        names: names of tools by the id of their call; this message's calls are added.
        place: the message's name in warnings.
    """
    role = (text_at(given, "role") or "").lower()
    if role in TOOLS:
        yield None, Message("user", (_returned(given, names),))
        return
    if role not in OPENAI_ROLES:
        logger.warning("%s is left out: its role is none of %s", place, ", ".join([*OPENAI_ROLES, *TOOLS]))
        return
    content = get_path(given, "content")
    elements = _elements(get_path(given, "refusal") if content is None else content)
    returned = [_returned(one, names) for one in elements if get_path(one, "type") == "tool_result"]
    calls = [_called(one, names) for one in _calls(given, elements)] if role == "assistant" else []
    parts = [part for one in elements if (part := _part(one)) is not None]
    if len(parts) + sum(get_path(one, "type") in ("tool_use", "tool_result") for one in elements) < len(
        elements
    ):
        logger.warning("%s: content other than text and images is left out", place)
    if role == "assistant" and not (parts or calls) and any(not isinstance(one, str) for one in elements):
        parts = [NO_TEXT]  # Without it, its question would count as open.
    if returned:
        yield None, Message("user", tuple(returned))
    if calls:
        yield None, Message("assistant", (*parts, *calls))
    elif parts:
        yield key, Message(OPENAI_ROLES[role], tuple(parts))


def _elements(content: Any) -> list[Any]:
    return content if isinstance(content, list) else [] if content is None else [content]


def _part(element: Any) -> Part | None:
    """The text or image of a content element of the chat-completion API; None if it is neither."""
    if isinstance(element, Mapping):
        if element.get("type") == "image_url":
            image = element.get("image_url")
            url = image.get("url") if isinstance(image, Mapping) else image
            return Image(url) if isinstance(url, str) and url.strip() else None
        element = element.get("text") if element.get("type", "text") == "text" else None
    return element if isinstance(element, str) and element.strip() else None


def _calls(given: Any, elements: list[Any]) -> list[Any]:
    """The tool calls in an assistant's message: `tool_calls`, `function_call` or `tool_use` elements."""
    listed = get_path(given, "tool_calls")
    single = get_path(given, "function_call")
    used = [one for one in elements if get_path(one, "type") == "tool_use"]
    return [*(listed if isinstance(listed, list) else ()), *([] if single is None else [single]), *used]


def _called(call: Any, names: dict[str, str]) -> str:
    function = get_path(call, "function") or call
    name = text_at(function, "name") or "a tool"
    names[text_at(call, "id") or ""] = name
    given = (get_path(function, key) for key in ("arguments", "args", "input"))
    return f"[calls {name} with {_spelled(next((one for one in given if one is not None), {}))}]"


def _returned(result: Any, names: dict[str, str]) -> str:
    identity = text_at(result, "tool_call_id") or text_at(result, "tool_use_id") or ""
    name = text_at(result, "name") or names.get(identity, "a tool")
    content = get_path(result, "content")
    texts = [part for one in _elements(content) if isinstance(part := _part(one), str)]
    return f"[{name} returned]\n" + ("\n".join(texts) or _spelled(content))


def _spelled(value: Any) -> str:
    try:
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    except (RecursionError, ValueError):
        raise PromptError("the arguments or the result of a tool are nested too deep") from None
