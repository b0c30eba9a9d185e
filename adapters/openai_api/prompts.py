"""Prompts in OpenAI's forms: messages, texts and token ids."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from engine.errors import PromptError
from engine.types import OPENAI_ROLES, Image, Message, Part

# A conversation in OpenAI's form: messages with a role and a content.
Chat = Sequence[Mapping[str, Any]]
# A text, its token ids, or a list of either.
Prompt = str | Sequence[int] | Sequence[str] | Sequence[Sequence[int]]
# A list of texts, or of token ids.
Texts = Sequence[str] | Sequence[tuple[int, ...]]


def messages_of(given: Chat) -> tuple[Message, ...]:
    """Parses messages in OpenAI's form.

    Raises:
        PromptError: an unknown role or content, and the message is named; or they are no list.
    """
    known = isinstance(given, Iterable) and not isinstance(given, str | Mapping)
    if not known or not all(isinstance(message, Mapping) for message in given):
        raise PromptError("messages is a list of objects, each with a role and a content: give one")
    return tuple(_message(i, message) for i, message in enumerate(given))


def texts_of(given: Prompt) -> Texts:
    """A list of texts, or of token ids.

    Raises:
        PromptError: it is neither.
    """
    listed: list[Any] = [given] if isinstance(given, str) else []
    if not listed and isinstance(given, Sequence):
        listed = list(given)
    if listed and all(isinstance(one, str) for one in listed):
        return listed
    if listed and all(isinstance(one, int) for one in listed):
        listed = [listed]
    ids = [tuple(one) if isinstance(one, Sequence) and not isinstance(one, str) else () for one in listed]
    if not ids or not all(one and all(isinstance(token, int) for token in one) for one in ids):
        raise PromptError("this is neither a text nor token ids, nor a list of either: give one of these")
    return ids


def inputs_of(given: Prompt) -> Texts:
    """What is to be embedded: as `texts_of`, and no text is empty.

    Raises:
        PromptError: it is neither a list of texts nor of token ids, or a text is empty.
    """
    texts = texts_of(given)
    for i, text in enumerate(texts):
        if not text:
            raise PromptError(f"input {i} is empty, and has no embedding: leave it out")
    return texts


def _message(i: int, given: Mapping[str, Any]) -> Message:
    role = OPENAI_ROLES.get(str(given.get("role")))
    if role is None:
        raise PromptError(
            f"messages[{i}] has the role {given.get('role')!r}: take one of {', '.join(OPENAI_ROLES)}"
        )
    content = given.get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    return Message(role, tuple(_part(i, part) for part in parts))


def _part(i: int, part: Any) -> Part:
    match part:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": "image_url", "image_url": {"url": str(url)}}:
            return Image(url)
    raise PromptError(
        f"messages[{i}] has content that is neither a text nor a part of type text or image_url"
    )
