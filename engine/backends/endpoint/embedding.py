"""A server's embedding routes: batches of texts in, embeddings out."""

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np

from engine.backends.endpoint.wire import Client
from engine.errors import ConfigurationError, GenerationError, Unsupported
from engine.options import EmbeddingOptions
from engine.text import encodable, listed

_BATCH = 32  # Texts of a request: what servers take by default.
Route = Callable[[Client, list[str], EmbeddingOptions], Awaitable[np.ndarray]]


def batches(
    texts: Sequence[str] | Sequence[Sequence[int]], options: EmbeddingOptions, kind: str | None
) -> list[list[str]]:
    """The texts with their prefixes, in batches of the size that servers accept.

    Raises:
        ConfigurationError: an unknown `kind`, or an option that can only be set on the server.
        PromptError: `texts` is no list of texts.
        Unsupported: token ids instead of texts.
    """
    given = listed(texts)
    if options.pooling != "auto" or options.max_length is not None:
        raise ConfigurationError("pooling and max_length are the server's own here: leave them out")
    prefixes = {None: "", "query": options.query_prefix or "", "document": options.document_prefix or ""}
    if kind not in prefixes:
        raise ConfigurationError(f"there is no kind {kind!r}: a server's model has query and document")
    prefixed = [encodable(prefixes[kind] + text) for text in given if isinstance(text, str)]
    if len(prefixed) < len(given):
        raise Unsupported("a server's embedding routes take no token ids: give the texts")
    return [prefixed[i : i + _BATCH] for i in range(0, len(prefixed), _BATCH)]


def joined(vectors: list[np.ndarray], options: EmbeddingOptions) -> np.ndarray:
    """The embeddings of all batches, float32 (texts, dim); of length 1 if the options ask for it.

    Raises:
        ConfigurationError: the server has ignored `dimensions`.
    """
    if not vectors:
        return np.zeros((0, 0), np.float32)
    rows = np.concatenate(vectors)
    if options.dimensions not in (None, rows.shape[1]):
        raise ConfigurationError(
            f"the server gives embeddings of {rows.shape[1]} numbers whatever dimensions says: leave it out"
        )
    if options.normalize:
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return rows.astype(np.float32)


async def openai(client: Client, texts: list[str], options: EmbeddingOptions) -> np.ndarray:
    """OpenAI's route /v1/embeddings."""
    body: dict[str, Any] = {
        "model": client.server.options.model_name or "dummy",
        "input": texts,
        "encoding_format": "float",
    }
    if options.dimensions:
        body["dimensions"] = options.dimensions
    answer = json.loads(await client.post("embeddings", body))
    rows = sorted(answer["data"], key=lambda row: row["index"])
    return _checked(client, np.array([row["embedding"] for row in rows], np.float32), texts)


async def tgi(client: Client, texts: list[str], options: EmbeddingOptions) -> np.ndarray:
    """The route /embed of TEI (Text Embeddings Inference), or that of the hub's providers."""
    root = client.address.root
    own: dict[str, Any] = {"normalize": options.normalize, "truncate": True} if root else {}
    vectors = await client.feature_extraction(texts, model=f"{root}/embed" if root else None, **own)
    return _checked(client, vectors, texts)


def _checked(client: Client, vectors: np.ndarray, texts: list[str]) -> np.ndarray:
    if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
        raise GenerationError(
            f"{client.server.name} answered {len(texts)} texts with numbers of shape {vectors.shape}: check "
            "that model_name is an embedding model"
        )
    return vectors
