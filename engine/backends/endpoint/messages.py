"""Conversations in the form of OpenAI's API: texts, and images as links or as their bytes."""

import ipaddress
from typing import Any
from urllib.parse import urlsplit

from engine.errors import PromptError
from engine.prompting.prompter import to_chat, with_system_prompt
from engine.prompting.renderer import Chat, merge_same_role
from engine.reasoning import without_reasoning
from engine.text import encodable
from engine.types import Image, Message, Part, Request

# Endings of names that no public host has.
_PRIVATE = (".internal", ".local", ".localhost")


def openai_messages(request: Request) -> list[dict[str, Any]]:
    """The conversation of a request; the content of a message with images is a list of parts.

    Raises:
        PromptError: the last message has neither text nor image, or an image has no address that may be sent.
    """
    if not has_images(request):
        return list(text_messages(request))
    messages: list[Message] = []
    for message in request.messages:
        if messages and messages[-1].role == message.role:
            messages[-1] = Message(message.role, (*messages[-1].parts, *message.parts))
        else:
            messages.append(message)
    if messages[-1].role == "system" or not (messages[-1].text.strip() or _has_images(messages[-1])):
        raise PromptError("the last message has no text and no image: add a question")
    chat: list[dict[str, Any]] = [{"role": one.role, "content": _content(one)} for one in messages]
    system = request.options.system_prompt
    if not system or any(message.role == "system" for message in messages):
        return chat
    return [{"role": "system", "content": encodable(system)}, *chat]


def text_messages(request: Request) -> Chat:
    """The conversation of a request as texts alone.

    Raises:
        PromptError: the last message has no text.
    """
    system = request.options.system_prompt
    chat = with_system_prompt(to_chat(request.messages, encodable), system and encodable(system))
    return merge_same_role(chat)


def has_images(request: Request) -> bool:
    """Whether any message of a request has an image."""
    return any(map(_has_images, request.messages))


def _has_images(message: Message) -> bool:
    return any(isinstance(part, Image) for part in message.parts)


def _content(message: Message) -> str | list[dict[str, Any]]:
    if not _has_images(message):
        text = without_reasoning(message.text) if message.role == "assistant" else message.text
        return encodable(text)
    return [_part(part) for part in message.parts]


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": encodable(part)}
    url = part.url.strip()
    if not url.isascii() or not (url.startswith("data:image/") or _is_public_link(url)):
        raise PromptError(
            "an image is neither a link by https to a public host nor its bytes as data:image/…;base64: a "
            "server gets no other"
        )
    return {"type": "image_url", "image_url": {"url": url}}


def _is_public_link(url: str) -> bool:
    """Whether the server may be made to fetch a link: not from its own network, as far as the name shows."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".")
    except ValueError:
        return False
    if parts.scheme != "https" or parts.username is not None:
        return False
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        numeric = host.rpartition(".")[2][:1].isdigit()  # A number in a form that only some libraries read.
        return "." in host and not numeric and not host.endswith(_PRIVATE)
