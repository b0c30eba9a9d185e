"""Scores given texts through a server's prompt log-probabilities (vLLM's `prompt_logprobs`)."""

import json
from collections.abc import Sequence
from typing import Any

from engine.backends.endpoint.wire import Client
from engine.errors import GenerationError
from engine.scoring.pair_tokenizer import Pair


async def logprobs(client: Client, pair: Pair) -> list[float]:
    """The log-probability of each token of a candidate after its prompt.

    Raises:
        GenerationError: the server gives none.
    """
    ids = [*pair.context, *pair.continuation]
    body = {
        "model": client.server.options.model_name,
        "prompt": ids,
        "max_tokens": 1,  # At least one has to be generated.
        "temperature": 0,
        "prompt_logprobs": 0,
    }
    answer = json.loads(await client.post("completions", body))
    given: Sequence[dict[str, Any] | None] = answer["choices"][0].get("prompt_logprobs") or ()
    if len(given) != len(ids):
        raise GenerationError(f"{client.server.name} gives no log-probabilities of a prompt: see its log")
    scored = zip(ids[len(pair.context) :], given[len(pair.context) :], strict=True)
    return [float((found or {})[str(token)]["logprob"]) for token, found in scored]
