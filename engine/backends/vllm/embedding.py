"""Embeddings by vLLM's pooling runner: texts are read here, pooled there, and finished here."""

import base64
import json
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch

from engine.backends.endpoint.wire import Client
from engine.embedding import Embedder
from engine.embedding.sentence_settings import SentenceSettings
from engine.errors import ConfigurationError, GenerationError
from engine.loading import Description
from engine.model_properties import vocabulary_size
from engine.prompting.tokenization import special_tokens_around

# Texts of a request.
BATCH = 64
_POOLINGS = {"cls": "CLS", "lasttoken": "LAST", "mean": "MEAN"}
# Token ids of texts → one vector each.
Vectors = Callable[[Sequence[Sequence[int]]], list[np.ndarray]]


def pooler_arguments(settings: SentenceSettings) -> list[str]:
    """The arguments of `vllm serve` that make it pool as a model's folder says, and leave the rest to us.

    Raises:
        ConfigurationError: vLLM does not pool so.
    """
    pooling = _POOLINGS.get(settings.poolings[0])
    if pooling is None or len(settings.poolings) > 1:
        raise ConfigurationError(
            f"vLLM pools by {', '.join(_POOLINGS)}, and this model by {' and '.join(settings.poolings)}: set "
            "backend to local"
        )
    config = {"pooling_type": pooling, "use_activation": False}
    return ["--convert", "embed", "--pooler-config", json.dumps(config)]


class VLLMEmbedder(Embedder):
    """Computes embeddings as the local backend does, with pooled hidden states from vLLM."""

    def __init__(self, settings: SentenceSettings, model: Description, vectors: Vectors) -> None:
        self.settings = settings
        self.tokenizer = model.tokenizer
        self._special_tokens = special_tokens_around(model.tokenizer)
        # What `Embedder` asks its reader besides hidden states.
        self.reader = cast(
            Any,
            SimpleNamespace(
                vocabulary=vocabulary_size(cast(Any, model)), context_length=model.context_length
            ),
        )
        self._width = int(model.config.get_text_config().hidden_size)
        self._vectors = vectors

    def _pooled(
        self, tokens: Sequence[Sequence[int]], modes: Sequence[str], start: int = 0, layer: int = -1
    ) -> torch.Tensor:
        if tuple(modes) != self.settings.poolings:
            raise ConfigurationError(
                f"pooling is set when vLLM starts: leave it out, which is {self.settings.poolings[0]} here"
            )
        if start:
            raise ConfigurationError("vLLM pools the tokens of a prompt, too: set backend to local")
        pooled = np.zeros((len(tokens), self._width), np.float32)
        full = [i for i, ids in enumerate(tokens) if ids]
        for i, vector in zip(full, self._vectors([tokens[i] for i in full]), strict=True):
            pooled[i] = vector
        return torch.from_numpy(pooled)


async def vectors(client: Client, tokens: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """The pooled hidden states of each text of a batch, float32 (dim,).

    Raises:
        GenerationError: the server gives other numbers.
    """
    body = {
        "model": client.server.options.model_name,
        "input": [list(ids) for ids in tokens],
        "encoding_format": "base64",
    }
    answer = json.loads(await client.post("embeddings", body))
    rows = sorted(answer["data"], key=lambda row: row["index"])
    found = [np.frombuffer(base64.b64decode(row["embedding"]), np.float32) for row in rows]
    if len(found) != len(tokens) or not all(np.isfinite(vector).all() for vector in found):
        raise GenerationError(f"{client.server.name} gives no embeddings of this model: see its log")
    return found
