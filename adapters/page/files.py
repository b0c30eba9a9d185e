"""Conversations of a page as files, and prompt-item files as conversations of a page. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from adapters.items import prompt_items
from adapters.items.annotations import as_dict
from adapters.items.item import Item
from adapters.items.stored import Record, get_path, is_from_model, prompt_of, rank_of, text_at
from adapters.page.session import Conversation, Exchange
from engine.errors import PromptError
from engine.types import Answer, Image, Message, Part, Token, Turn, Usage


def as_item(conversations: Mapping[str, Conversation]) -> Record:
    """The conversations with some models, by their names, as one prompt item in the messages format.

    The questions are those of the first one; the answers of all are the item's "annotations".
    """
    messages: dict[str, Message] = {}
    annotations = []
    for asked, *others in zip(*conversations.values(), strict=True):
        for message in (*_system(asked, first=not messages), *asked.messages):
            key = str(len(messages) + 1)
            messages[key] = message
        for name, exchange in zip(conversations, (asked, *others), strict=True):
            if exchange.answer is not None and exchange.said:
                annotations.append(as_dict(key, exchange.answer, exchange.by or name))
    return prompt_items.as_item(messages, annotations)


def as_json(conversations: Mapping[str, Conversation]) -> dict[str, Any]:
    """Everything about the conversations with some models, by their names."""
    return {name: [_exchange(exchange) for exchange in one] for name, one in conversations.items()}


def opened(file: bytes, name: str, models: Sequence[str]) -> dict[str, list[Conversation]]:
    """The conversations of a prompt item's file by their keys; for each, one for each model.

    An answer in the file's "annotations" is shown where it is by that model, or where none of them is.

    Args:
        name: what errors call the file.

    Raises:
        PromptError: the file is not a prompt item, or there is nothing to ask in it.
    """
    try:
        content = json.loads(file.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise PromptError(f"{name} is not JSON ({error}): open a prompt item's file") from None
    # No earlier answers: each question is an exchange of its own.
    item = Item.parse(content, "", name)
    if item.error is not None:
        raise PromptError(f"{name}: {item.error}")
    return {
        dialogue.key: [
            _conversation(dialogue.history, dialogue.turns, _answers(content, model)) for model in models
        ]
        for dialogue in item.dialogues
    }


def _system(exchange: Exchange, first: bool) -> tuple[Message, ...]:
    """The system message that the options add before the first question."""
    prompt = exchange.options.system_prompt if exchange.options else None
    own = any(message.role == "system" for message in exchange.messages)
    return (Message("system", (prompt,)),) if first and prompt and not own else ()


def _exchange(exchange: Exchange) -> Record:
    known = exchange.answer
    record: Record = {
        "messages": [
            {"role": message.role, "content": [_content(part) for part in message.parts]}
            for message in exchange.messages
        ],
        "text": exchange.text,
        "stopped": exchange.stopped,
        "options": exchange.options and exchange.options.model_dump(mode="json", exclude_unset=True),
        "by": exchange.by,
    }
    if known is not None:
        record |= {
            "confidence": known.confidence,
            "finish_reason": known.finish_reason,
            "usage": {
                "prompt_tokens": known.usage.prompt_tokens,
                "completion_tokens": known.usage.completion_tokens,
            },
            "error": None if known.error is None else str(known.error),
            "tokens": None if known.tokens is None else [_token(token) for token in known.tokens],
        }
    return record


def _content(part: Part) -> Record:
    if isinstance(part, Image):
        return {"type": "image_url", "image_url": {"url": part.url}}
    return {"type": "text", "text": part}


def _token(token: Token) -> Record:
    top = [{"token": text, "logprob": logprob} for text, logprob in token.top]
    return {"token": token.text, "logprob": token.logprob, "top_logprobs": top}


def _conversation(
    history: Sequence[Message], turns: Sequence[Turn], answers: Mapping[str, list[Record]]
) -> Conversation:
    """The turns of a dialogue with their answers, if there are any."""
    left = {key: iter(found) for key, found in answers.items()}
    conversation = []
    before = tuple(history)
    for turn in turns:
        exchange = Exchange((*before, *turn.messages))
        found = next(left.get(turn.key, iter(())), None)
        conversation.append(exchange if found is None else _read(exchange, found))
        before = ()
    return conversation


def _read(exchange: Exchange, annotation: Record) -> Exchange:
    """The exchange with the answer that an annotation holds."""
    text = text_at(annotation, "coordinates") or ""
    model = get_path(annotation, "metadata", "user", "model")
    confidence = get_path(model, "confidence")
    known = float(confidence) if isinstance(confidence, (int, float)) else None
    answer = Answer(text, (), None, known, "stop", Usage(0, 0))
    return replace(exchange, text=text, answer=answer, by=text_at(model, "name") or "an unnamed model")


def _answers(content: Any, model_name: str) -> dict[str, list[Record]]:
    """The annotations of an item that are answers, by prompt key."""
    annotations = get_path(content, "annotations")
    listed = annotations if isinstance(annotations, list) else []
    texts = [one for one in listed if text_at(one, "coordinates") and rank_of(one) == 1]
    own = [one for one in texts if is_from_model(one, model_name)]
    found: dict[str, list[Record]] = {}
    for annotation in own or texts:
        found.setdefault(prompt_of(annotation) or "", []).append(annotation)
    return found
