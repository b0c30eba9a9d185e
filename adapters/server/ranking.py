"""The answers of the routes that score and rank."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adapters.openai_api.responses import IMPOSSIBLE
from adapters.python_api import relevance
from engine.errors import ConfigurationError, PromptError

if TYPE_CHECKING:
    from adapters.hugging import HuggingAdapter
    from engine.classification import Classification
    from engine.scoring import Scores


def scored(
    adapter: HuggingAdapter, prompt: Any, candidates: Sequence[str], options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The score of each candidate as the continuation of a prompt, in their order.

    A model with a classification head scores the pair of prompt and candidate, or labels it.

    Args:
        prompt: a text, or messages in OpenAI's form.
        options: generation options that write the prompt.

    Raises:
        AdapterError: an invalid option, prompt or candidate.
        Unsupported: the backend cannot score.
    """
    if adapter.classifies:
        found = adapter.pair_scores(prompt, candidates, **options)
        return [
            {"object": "score", "index": i}
            | ({"score": one.scores[0]} if len(one.scores) == 1 else _labelled(one))
            | {"tokens": one.num_tokens}
            for i, one in enumerate(found)
        ]
    [scores] = _checked(adapter.score([prompt], candidates, **options))
    return [
        {
            "object": "score",
            "index": i,
            "logprob": max(score.total, IMPOSSIBLE),
            "probability": score.probability,
            "tokens": len(score.token_ids),
        }
        for i, score in enumerate(scores.candidates)
    ]


def reranked(
    adapter: HuggingAdapter, query: Any, documents: Sequence[str], options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Documents by their relevance to a query, the most relevant first.

    The relevance is the score of a model with a classification head (a reranker), or the cosine of their
    embeddings, for a model that embeds. For a model that writes, it is
    how likely it finds the query after the document: exp(mean log-probability of the query's tokens).

    Args:
        options: `top_n`, the most results, and `return_documents`, whether the results have the texts.

    Raises:
        ConfigurationError: an unknown or invalid option.
        AdapterError: a text that cannot be read.
    """
    given = dict(options)
    most, texts = given.pop("top_n", None), given.pop("return_documents", True)
    if given:
        raise ConfigurationError(f"unknown option {min(given)!r}: there are top_n and return_documents")
    if not (most is None or (isinstance(most, int) and most > 0)) or not isinstance(texts, bool | None):
        raise ConfigurationError("top_n is a number above 0, and return_documents is true or false")
    if not isinstance(query, str):
        raise PromptError("query is a text: give one")
    embeds = adapter.task == "embed" or "score" not in adapter.engine.supports
    ways = _relevances if adapter.classifies else _cosines if embeds else _likelihoods
    relevances = ways(adapter, query, documents)
    order = sorted(range(len(documents)), key=lambda i: -relevances[i])[:most]
    return [
        {"index": i, "relevance_score": relevances[i]}
        | ({"document": {"text": documents[i]}} if texts else {})
        for i in order
    ]


def _labelled(found: Classification) -> dict[str, Any]:
    return {"labels": dict(found.labels)} if found.labels else {"scores": list(found.scores)}


def _relevances(adapter: HuggingAdapter, query: str, documents: Sequence[str]) -> list[float]:
    return [relevance(found) for found in adapter.pair_scores(query, documents)]


def _cosines(adapter: HuggingAdapter, query: str, documents: Sequence[str]) -> list[float]:
    import numpy as np

    [asked] = adapter.encode([query], "query")
    given = adapter.encode(documents, "document")
    lengths = np.linalg.norm(given, axis=1) * np.linalg.norm(asked)
    return [float(value) for value in given @ asked / np.maximum(lengths, 1e-12)]


def _likelihoods(adapter: HuggingAdapter, query: str, documents: Sequence[str]) -> list[float]:
    scores = _checked(adapter.score([f"{document}\n" for document in documents], [query]))
    pairs = (one.candidates[0] for one in scores)
    return [math.exp(max(score.total, IMPOSSIBLE) / max(1, len(score.token_ids))) for score in pairs]


def _checked(scores: Any) -> list[Scores]:
    for one in scores:
        if one.error is not None:
            raise one.error
    return list(scores)
