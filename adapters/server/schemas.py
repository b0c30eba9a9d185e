"""What `/docs` says of the bodies of requests, from the options' own descriptions."""

from __future__ import annotations

from typing import Any

from adapters.openai_api.bodies import RESERVED
from engine.options import EmbeddingOptions, GenerationOptions, Options

_MESSAGES = [{"role": "user", "content": "What is the capital of Japan?"}]


def _body(
    needed: dict[str, Any], example: dict[str, Any], options: type[Options] | None = None
) -> dict[str, Any]:
    properties = options.model_json_schema()["properties"] if options else {}
    properties = {key: value for key, value in properties.items() if key not in RESERVED}
    schema = {
        "type": "object",
        "required": list(needed),
        "properties": {"model": {"type": "string"}} | needed | properties,
    }
    content = {"application/json": {"schema": schema, "example": example}}
    return {"requestBody": {"required": True, "content": content}}


_LIST = {"type": "array", "items": {"type": "string"}}
_CHAT = {"type": "array", "items": {"type": "object"}}
_OR_LIST = {"anyOf": [{"type": "string"}, _LIST]}
_OR_CHAT = {"anyOf": [{"type": "string"}, _CHAT]}

CHAT = _body({"messages": _CHAT}, {"messages": _MESSAGES, "max_tokens": 32}, GenerationOptions)
COMPLETION = _body(
    {"prompt": _OR_LIST}, {"prompt": "The capital of Japan", "max_tokens": 8}, GenerationOptions
)
RESPONSE = _body({"input": _OR_CHAT}, {"input": "What is the capital of Japan?"}, GenerationOptions)
EMBEDDING = _body({"input": _OR_LIST}, {"input": ["Good morning!"]}, EmbeddingOptions)
SCORE = _body(
    {"prompt": _OR_CHAT, "candidates": _LIST}, {"prompt": _MESSAGES, "candidates": ["Tokyo", "Paris"]}
)
RERANK = _body(
    {"query": {"type": "string"}, "documents": _LIST},
    {"query": "Where is Tokyo?", "documents": ["Tokyo is in Japan.", "Paris is in France."], "top_n": 1},
)
