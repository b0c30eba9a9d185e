"""The bodies of OpenAI's routes: each becomes a call of a model, and its answers the body of a response."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapters.openai_api import responses, responses_api
from adapters.openai_api.errors import Refused
from adapters.openai_api.prompts import Texts, inputs_of
from adapters.openai_api.requests import Call, OpenAICalls
from adapters.openai_api.responses import Echo, Stream
from engine.errors import ConfigurationError, Unsupported
from engine.options.names import ALIASES
from engine.types import Answer

if TYPE_CHECKING:
    import numpy as np

# Options that a body may not set: a template is a program, and the others load models.
_NAMES = {"chat_template", "confidence_model", "judge"}
RESERVED = _NAMES | {alias for alias, name in ALIASES.items() if name in _NAMES}


@dataclass(frozen=True, slots=True)
class Generation:
    """A body that asks for generated answers.

    Attributes:
        call: its requests.
        stream: makes the events of a streamed response.
        whole: makes the body of a response from all answers, and the echoed prompts.
    """

    call: Call
    stream: Stream
    whole: Callable[[Sequence[Answer], Sequence[Echo]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Embedding:
    """A body that asks for embeddings.

    Attributes:
        name: the model's name in the response.
        texts: the texts, or their token ids.
        options: embedding options.
        encode: makes JSON of a vector.
    """

    name: str
    texts: Texts
    kind: str | None
    options: Mapping[str, Any]
    encode: Callable[[np.ndarray], list[float] | str]

    def whole(self, vectors: np.ndarray, tokens: int) -> dict[str, Any]:
        """The body of the response."""
        return responses.embeddings(self.name, [self.encode(vector) for vector in vectors], tokens)


def chat(model: OpenAICalls, body: dict[str, Any]) -> Generation:
    """The next answer of a conversation."""
    call = model.chat_call(taken(body, "messages"), body.pop("model", None), body)
    stream = responses.ChatStream(call.head)
    return Generation(call, stream, lambda answers, _: responses.chat_completion(call.head, answers))


def completion(model: OpenAICalls, body: dict[str, Any]) -> Generation:
    """The continuation of a text."""
    call = model.completion_call(taken(body, "prompt"), body.pop("model", None), body)
    stream = responses.CompletionStream(call.head)
    return Generation(call, stream, lambda answers, echoes: responses.completion(call.head, answers, echoes))


def response(model: OpenAICalls, body: dict[str, Any]) -> Generation:
    """The next answer of a conversation, in the form of the Responses API; nothing is stored."""
    name = body.pop("model", None)
    messages, options = responses_api.as_chat(body)
    call = model.chat_call(messages, name, options)
    stream = responses_api.ResponseStream(call.head, body)
    return Generation(call, stream, lambda answers, _: responses_api.response(call.head, body, answers[0]))


def embedding(model: OpenAICalls, body: dict[str, Any]) -> Embedding:
    """The embeddings of texts."""
    texts, name = inputs_of(taken(body, "input")), model.named(body.pop("model", None))
    encode = _ENCODINGS.get(str(body.pop("encoding_format", None) or "float"))
    if encode is None:
        raise ConfigurationError(f"encoding_format is one of {', '.join(_ENCODINGS)}")
    body.pop("user", None)
    return Embedding(name, texts, body.pop("kind", None), body, encode)


# By the path of the route: makes a call of a model and a body, which it changes.
ROUTES: Mapping[str, Callable[[OpenAICalls, dict[str, Any]], Generation | Embedding]] = {
    "/v1/chat/completions": chat,
    "/v1/completions": completion,
    "/v1/embeddings": embedding,
    "/v1/responses": response,
}


def checked(body: dict[str, Any]) -> dict[str, Any]:
    """The body itself, without options that it may not set.

    Raises:
        Unsupported: it sets one of them.
    """
    for key in RESERVED & body.keys():
        if body.pop(key) is not None:
            raise Unsupported(f"{key}: only the model's own configuration may set it; leave it out")
    return body


def taken(body: dict[str, Any], key: str) -> Any:
    """A parameter that has to be there; it is removed.

    Raises:
        Refused: it is missing.
    """
    if body.get(key) is None:
        raise Refused(400, f"{key} is missing: give it", "missing_required_parameter")
    return body.pop(key)


def encoded(value: dict[str, Any]) -> bytes:
    """A body as JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _floats(vector: Any) -> list[float]:
    return [float(value) for value in vector]


def _base64(vector: Any) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


_ENCODINGS: dict[str, Callable[[Any], list[float] | str]] = {"float": _floats, "base64": _base64}
