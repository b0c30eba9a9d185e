"""OpenAI's Responses API for text: its calls as chats, its objects and events."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any

from adapters.openai_api.responses import Head, Stream, chat_token
from engine.errors import ConfigurationError, PromptError, Unsupported
from engine.types import Answer, Chunk

# Parameters that nothing here can do; values that ask for nothing are taken.
_REFUSED = ("background", "conversation", "previous_response_id", "prompt", "reasoning", "tools")
# Parameters that change no answer here.
_IGNORED = ("include", "max_tool_calls", "tool_choice", "truncation")
_TEXTS = ("input_text", "output_text", "text")


def as_chat(body: Mapping[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The messages and the other parameters of a chat that gives the same answer.

    Args:
        body: a call of the Responses API, without `model`.

    Raises:
        PromptError: an input that is no text and no list of messages.
        Unsupported: a parameter that nothing here can do.
    """
    for key in _REFUSED:
        if body.get(key) not in (None, False, [], {}):
            raise Unsupported(f"{key}: answers here are text, and none is stored; leave it out")
    options = {key: value for key, value in body.items() if key not in (*_REFUSED, *_IGNORED)}
    messages = _messages(options.pop("input", None))
    if instructions := options.pop("instructions", None):
        messages.insert(0, {"role": "system", "content": instructions})
    if (text := options.pop("text", None)) not in (None, {}, {"format": {"type": "text"}}):
        options["response_format"] = text.get("format", text) if isinstance(text, Mapping) else text
    if (length := options.pop("max_output_tokens", None)) is not None:
        options["max_tokens"] = length
    if options.get("top_logprobs") or "message.output_text.logprobs" in str(body.get("include")):
        options["logprobs"] = True
    if options.get("n") not in (None, 1):
        raise ConfigurationError("n: a response has one answer; leave it out")
    return messages, options


def response(head: Head, body: Mapping[str, Any], answer: Answer) -> dict[str, Any]:
    """The whole object, a `Response`, with an answer."""
    return _Objects(head, body).ended(answer)


class ResponseStream(Stream):
    """The events of a response, numbered, each with a `type`."""

    def __init__(self, head: Head, body: Mapping[str, Any]) -> None:
        self._objects = _Objects(head, body)
        self._number = 0
        self._ended: list[dict[str, Any]] = []

    def first(self) -> list[dict[str, Any]]:
        """The response and its empty message."""
        began = self._objects.began()
        return [
            self._event("response.created", response=began),
            self._event("response.in_progress", response=began),
            self._event("response.output_item.added", output_index=0, item=self._objects.message()),
            self._part("response.content_part.added", part=self._objects.part("")),
        ]

    def events(self, chunk: Chunk) -> list[dict[str, Any]]:
        """A delta; with the answer, also the ends of text, part and message."""
        events = []
        if chunk.text:
            events.append(self._part("response.output_text.delta", delta=chunk.text, logprobs=[]))
        if (answer := chunk.answer) is None:
            return events
        part = self._objects.part(answer.text, answer)
        whole = self._objects.ended(answer)
        self._ended = [whole]
        return [
            *events,
            self._part("response.output_text.done", text=answer.text, logprobs=part["logprobs"]),
            self._part("response.content_part.done", part=part),
            self._event("response.output_item.done", output_index=0, item=whole["output"][0]),
        ]

    def last(self) -> list[dict[str, Any]]:
        """The whole response."""
        return [self._event(f"response.{whole['status']}", response=whole) for whole in self._ended]

    def _part(self, kind: str, **fields: Any) -> dict[str, Any]:
        return self._event(kind, item_id=self._objects.message_id, output_index=0, content_index=0, **fields)

    def _event(self, kind: str, **fields: Any) -> dict[str, Any]:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **fields}


class _Objects:
    """The objects of one response, with the same ids throughout."""

    def __init__(self, head: Head, body: Mapping[str, Any]) -> None:
        self._head = head
        self.message_id = f"msg_{uuid.uuid4().hex}"
        self._fields: dict[str, Any] = {
            "id": f"resp_{uuid.uuid4().hex}",
            "object": "response",
            "created_at": int(time.time()),
            "model": head.model,
            "error": None,
            "instructions": body.get("instructions"),
            "metadata": body.get("metadata") or {},
            "parallel_tool_calls": False,
            "temperature": body.get("temperature"),
            "top_p": body.get("top_p"),
            "max_output_tokens": body.get("max_output_tokens"),
            "text": {"format": {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
        }

    def began(self) -> dict[str, Any]:
        return self._fields | {
            "status": "in_progress",
            "incomplete_details": None,
            "output": [],
            "usage": None,
        }

    def ended(self, answer: Answer) -> dict[str, Any]:
        cut = answer.finish_reason == "length"
        usage = self._head.usage([answer])
        status = "incomplete" if cut else "completed"
        return self._fields | {
            "status": status,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": [self.message(status, [self.part(answer.text, answer)])],
            "usage": {
                "input_tokens": usage["prompt_tokens"],
                "input_tokens_details": usage["prompt_tokens_details"] | {"cache_write_tokens": 0},
                "output_tokens": usage["completion_tokens"],
                "output_tokens_details": usage["completion_tokens_details"],
                "total_tokens": usage["total_tokens"],
            },
        }

    def message(
        self, status: str = "in_progress", content: list[dict[str, Any]] | None = None
    ) -> dict[str, Any]:
        return {
            "id": self.message_id,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content or [],
        }

    def part(self, text: str, answer: Answer | None = None) -> dict[str, Any]:
        """A part of type `output_text`."""
        part: dict[str, Any] = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        if answer is not None and answer.tokens is not None:
            part["logprobs"] = [chat_token(token) for token in answer.tokens]
        return part | (self._head.certainty(answer) if answer is not None else {})


def _messages(given: Any) -> list[dict[str, Any]]:
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list) or not given or not all(isinstance(item, Mapping) for item in given):
        raise PromptError("input is a text or a list of messages: give one")
    return [_message(i, item) for i, item in enumerate(given)]


def _message(i: int, item: Mapping[str, Any]) -> dict[str, Any]:
    if item.get("type", "message") != "message":
        raise PromptError(f"input[{i}] is of type {item['type']!r}: only messages are read here")
    content = item.get("content")
    if isinstance(content, list):
        content = [_part(part) for part in content]
    return {"role": item.get("role"), "content": content}


def _part(part: Any) -> Any:
    if not isinstance(part, Mapping):
        return part
    if part.get("type") in _TEXTS:
        return {"type": "text", "text": part.get("text")}
    if part.get("type") == "input_image":
        return {"type": "image_url", "image_url": {"url": part.get("image_url")}}
    return part
