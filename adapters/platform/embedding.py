"""Embeds items of the platform: texts in, embeddings stored as features of a feature set."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from adapters.hugging import HuggingAdapter
from adapters.platform import features, remote, texts
from adapters.platform.progress import RunProgress
from adapters.platform.texts import Text
from adapters.prediction import batches
from adapters.prediction.failures import Failure, Unfinished, collect_or_log
from engine.errors import ConfigurationError, Unsupported

BATCH_SIZE = 128
WORKERS = 16
# A text that every model can embed: it shows the length of the model's embeddings, and that the model works.
PROBE = "a"

Embedding = list[float]


class EmbeddingError(Unfinished):
    """Some items of a run have no embedding. All others are embedded, and their embeddings are stored."""

    missing = "embedding"


class EmbeddingAdapter:
    """The part of `ModelAdapter` that embeds: its methods override those of `dl.BaseModelAdapter`."""

    adapter: Any
    model_entity: Any
    configuration: Any
    feature_set: Any

    def embed(
        self, batch: Sequence[Text | Failure], failures: list[Failure] | None = None, **kwargs: Any
    ) -> list[Embedding | None]:
        """The embedding of each text, in order; None for a text without one.

        Args:
            batch: texts, or why an item has none.
            failures: gets the texts without an embedding; without it they are logged.
        """
        embeddings = iter(embed_each(self.adapter, [text for text in batch if isinstance(text, Text)]))
        found = [text if isinstance(text, Failure) else next(embeddings) for text in batch]
        collect_or_log([failure for failure in found if isinstance(failure, Failure)], failures)
        return [None if isinstance(embedding, Failure) else embedding for embedding in found]

    def embed_items(
        self,
        items: list[Any],
        upload_features: bool | None = None,
        batch_size: int | None = None,
        progress: Any = None,
        **kwargs: Any,
    ) -> tuple[list[Any], list[Embedding]]:
        """Embeds text items and prompt items; returns the items and their embeddings.

        The embeddings are stored in the model's feature set, where they replace the items' earlier ones.

        Args:
            upload_features: whether embeddings are stored. None: as the configuration says, by default those
                of text items only, since prompt items are queries.
            batch_size: items that are embedded together; by default as the configuration says, or 128.
            progress: a `dl.Progress`; gets the percentage of items that are done.

        Raises:
            ConfigurationError: the model's embeddings do not have the length that the platform expects.
            EmbeddingError: at the end, if some items have no embedding; all others are stored.
        """
        configuration = dict(self.model_entity.configuration or {})
        stored = _stored(upload_features, configuration)
        if stored is not False:
            self._check_embedding_size()
        size = batches.batch_size(batch_size, configuration, BATCH_SIZE)
        failures: list[Failure] = []
        embeddings: list[Embedding] = []
        with (
            ThreadPoolExecutor(WORKERS) as pool,
            RunProgress(len(items), progress, "embedding") as shown,
        ):
            for start in range(0, len(items), size):
                batch = items[start : start + size]
                embeddings += self._embed_batch(batch, stored, failures, pool)
                shown.ended(len(batch))
        if failures:
            raise EmbeddingError(failures)
        return items, embeddings

    def embed_dataset(
        self, dataset: Any, filters: Any = None, batch_size: int | None = None, progress: Any = None
    ) -> None:
        """As `embed_items`, for the items of a dataset that a filter selects.

        The SDK divides a large dataset into executions, which the service's pods share, and waits for them.
        """
        # First: without a configured size, the SDK creates a feature set for embeddings of 256 numbers.
        self._check_embedding_size()
        size = batches.batch_size(batch_size, self.model_entity.configuration, BATCH_SIZE)
        super().embed_dataset(dataset, filters, batch_size=size, progress=progress)  # type: ignore[misc]

    def _embed_batch(
        self, batch: list[Any], stored: bool | None, failures: list[Failure], pool: ThreadPoolExecutor
    ) -> list[Embedding]:
        """Reads, embeds and stores items; returns the embeddings and adds to `failures`."""
        hyde_model = self.model_entity.configuration.get("hyde_model_name")
        read = list(pool.map(partial(texts.download, hyde_model=hyde_model), batch))
        found = self.embed(read, failures)
        to_store = [
            (item, embedding)
            for item, text, embedding in zip(batch, read, found, strict=True)
            if embedding is not None and _is_stored(text, stored)
        ]
        failures += features.store(self.feature_set, self.model_entity.project_id, to_store, pool)
        return [embedding for embedding in found if embedding is not None]

    def _check_embedding_size(self) -> None:
        """Checks that the platform expects the length of the model's embeddings, and sets it if none is set.

        Raises:
            ConfigurationError: the configuration or the feature set has another length.
        """
        (embedding,) = _embed(self.adapter, [PROBE], "document")
        size, name = len(embedding), self.model_entity.name
        configured = self.model_entity.configuration.get("embeddings_size")
        if configured is None:
            self.configuration["embeddings_size"] = size  # Written to the platform by the SDK.
        elif configured != size:
            raise ConfigurationError(
                f"the embeddings of model {name!r} have {size} numbers, and its configuration says "
                f"embeddings_size {configured!r}: set it to {size}"
            )
        if self.feature_set.size != size:
            raise ConfigurationError(
                f"the embeddings of model {name!r} have {size} numbers, and its feature set "
                f"{self.feature_set.name!r} takes {self.feature_set.size}: delete it, or clone the model"
            )


def embed_each(adapter: Any, given: Sequence[Text]) -> list[Embedding | Failure]:
    """An embedding for each text, or why it has none; `position` of a failure is the text's index.

    Raises:
        ConfigurationError, Unsupported: an error that concerns all texts alike.
    """
    found: dict[int, Embedding | Failure] = {}
    for kind in ("document", "query"):
        places = [i for i, text in enumerate(given) if text.kind == kind]
        embeddings = _embeddings(adapter, [given[i].text for i in places], kind) if places else []
        for i, embedding in zip(places, embeddings, strict=True):
            reason = f"it could not be embedded ({embedding})"
            found[i] = Failure(given[i].item, None, reason, i) if isinstance(embedding, str) else embedding
    return [found[i] for i in range(len(given))]


def _stored(asked: bool | None, configuration: Mapping[str, Any]) -> bool | None:
    """Whether embeddings are stored; None: those of documents only."""
    stored = configuration.get("upload_features") if asked is None else asked
    if stored is not None and not isinstance(stored, bool):
        raise ConfigurationError(f"upload_features is {stored!r}: set it to true or false, or leave it out")
    return stored


def _is_stored(text: Text | Failure, stored: bool | None) -> bool:
    if stored is not None:
        return stored
    return isinstance(text, Text) and text.kind == "document" and not text.hypothetical


def _embeddings(adapter: Any, given: list[str], kind: str) -> list[Embedding | str]:
    """An embedding for each text, or why it has none. If a batch fails, its texts are embedded one by one."""
    try:
        return [
            found.tolist() if np.isfinite(found).all() else "its embedding has numbers that are not finite"
            for found in _embed(adapter, given, kind)
        ]
    except (ConfigurationError, Unsupported):
        raise
    except Exception as error:
        if len(given) == 1 or not _works(adapter):
            return [remote.describe_error(error)] * len(given)
    return [found for text in given for found in _embeddings(adapter, [text], kind)]


def _works(adapter: Any) -> bool:
    try:
        return len(_embed(adapter, [PROBE], "document")) == 1
    except Exception:
        return False


def _embed(adapter: Any, given: list[str], kind: str) -> np.ndarray:
    """Embeddings of texts of one kind, (texts, dim)."""
    if not isinstance(adapter, HuggingAdapter):
        raise Unsupported("this model file cannot embed: build it on adapters.hugging.HuggingAdapter")
    return adapter.engine.embed(given, adapter.configuration.embedding, kind)
