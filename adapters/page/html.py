"""A conversation as messages of a chat page. All that a user or a model has written is escaped here."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from html import escape
from typing import Any

from adapters.page.session import Conversation, Exchange
from engine.types import Image, Message, Token

# White space of tokens, so that it can be seen.
_VISIBLE = str.maketrans({" ": "␣", "\n": "⏎", "\t": "⇥", "\r": "␍"})
# Gradio reads the text of a user's message as HTML, and what the user edits is that text: an invisible
# character (WORD JOINER) after each "<" and "&" that begins markup makes plain text of it.
_MARKUP = re.compile(r"([<&])(?=[A-Za-z/!?#])")
_PLAIN = "\N{WORD JOINER}"


def messages(conversation: Conversation) -> list[dict[str, Any]]:
    """The messages of a conversation as Gradio's chatbot takes them: plain texts, and answers as HTML."""
    shown = []
    for exchange in conversation:
        shown += [_message(message) for message in exchange.messages]
        shown.append({"role": "assistant", "content": _component(answer(exchange))})
    return shown


def answer(exchange: Exchange) -> str:
    """The answer of an exchange as HTML: each token shaded by its probability, and the confidence below."""
    known = exchange.answer
    if known is not None and known.error is not None:
        return f'<div class="answer failed" role="alert">{escape(str(known.error))}</div>'
    tokens = known.tokens if known is not None else None
    body = _shaded(tokens, exchange.text) if tokens else f"<span>{escape(exchange.text)}</span>"
    facts = escape(" · ".join(_facts(exchange)))
    return f'<div class="answer">{body}</div><p class="facts">{facts}</p>'


def _message(message: Message) -> dict[str, Any]:
    # An image is named and not shown: the page asks no other host for anything.
    texts = (f"[image: {part.url}]" if isinstance(part, Image) else part for part in message.parts)
    text = "\n".join(texts)
    if message.role == "assistant":
        return {"role": "assistant", "content": _component(f'<div class="answer">{escape(text)}</div>')}
    shown = text if message.role == "user" else f"{message.role}: {text}"
    return {"role": "user", "content": {"type": "text", "text": _MARKUP.sub(rf"\1{_PLAIN}", shown)}}


def typed(text: str) -> str:
    """The text of a user's message that was edited, as it was typed."""
    return text.replace(f"<{_PLAIN}", "<").replace(f"&{_PLAIN}", "&")


def _component(html: str) -> dict[str, Any]:
    """A message's content that Gradio draws as HTML."""
    props = {"value": html, "html_template": "${value}", "js_on_load": None}
    return {"type": "component", "component": "html", "value": html, "constructor_args": {}, "props": props}


def _shaded(tokens: tuple[Token, ...], text: str) -> str:
    """Tokens up to the end of the text: a stop string and what came after it are not part of an answer."""
    spans: list[str] = []
    length = 0
    for token in tokens:
        shown = token.text[: len(text) - length]
        if shown:
            spans.append(_token(token, shown, first=not spans))
        length += len(shown)
    return '<span role="group" aria-label="the answer, token by token">' + "".join(spans) + "</span>"


def _token(token: Token, text: str, first: bool) -> str:
    """A token with its alternatives, which the style sheet shows where it is pointed at or has the focus."""
    chosen = (token.text, token.logprob)
    likeliest = token.top if chosen in token.top else (*token.top, chosen)
    rows = "".join(_alternative(*one, own=one == chosen) for one in likeliest)
    probability = math.exp(token.logprob)
    label = f"{_visible(token.text)}, probability {probability:.1%}"
    attributes = f'tabindex="{0 if first else -1}" aria-label="{label}" style="--p:{probability:.4f}"'
    return (
        f'<span class="token" {attributes}>{escape(text)}'
        f'<span class="alternatives" role="tooltip">{rows}</span></span>'
    )


def _alternative(text: str, logprob: float, own: bool) -> str:
    row = f"{math.exp(logprob):.1%} <code>{_visible(text)}</code>"
    return f'<span class="alternative">{f"<b>{row}</b>" if own else row}</span>'


def _visible(text: str) -> str:
    return escape(text.translate(_VISIBLE)) or "end"


def _facts(exchange: Exchange) -> Iterator[str]:
    """The line below an answer."""
    if exchange.by is not None:
        yield f"from the file, by {exchange.by}"
    known = exchange.answer
    if known is None:
        yield "stopped" if exchange.stopped else "…"
        return
    if known.confidence is None:
        yield "confidence unknown"
    else:
        yield f"confidence {known.confidence:.3f}"
        if exchange.calibrated:
            yield f"{100 * known.confidence:.0f} of 100 such answers are right"
    if known.usage.completion_tokens:
        yield f"{known.usage.completion_tokens} tokens"
    if known.finish_reason == "length":
        yield "cut at max_new_tokens"
