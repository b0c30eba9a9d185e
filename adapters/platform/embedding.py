"""Embeds items of the platform: texts in, embeddings stored as features of a feature set."""

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from adapters.hugging import HuggingAdapter
from adapters.items.item import Snapshot
from adapters.items.prompt_items import read
from adapters.items.traces import is_trace, question
from adapters.platform import remote
from adapters.prediction import batches
from adapters.prediction.failures import Failure, Unfinished, report
from engine.errors import ConfigurationError, PromptError, Unsupported

BATCH_SIZE = 128
CONNECTIONS = 16
# A text that any model can embed: by its vector the size is known, and that the model works at all.
PROBE = "a"

Vector = list[float]


class EmbeddingError(Unfinished):
    """A run in which some items have no vector. All others are embedded, and their vectors stored."""

    missing = "vector"


@dataclass(frozen=True, slots=True)
class Text:
    """What is embedded of an item: a document's text, or what a prompt item asks."""

    item: str
    text: str
    kind: Literal["document", "query"]


def read_text(item: str, content: bytes) -> Text:
    """The text of an item: of a prompt item the last question of each conversation, a line each.

    Raises:
        PromptError: neither a text nor a prompt item nor a trace, one without text, or one with a prompt that
            cannot be read.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise PromptError("its content is no UTF-8 text: embed text items and prompt items") from None
    prompts = _json(text)
    if isinstance(prompts, dict) and is_trace(prompts):
        return Text(item, _not_empty(question(prompts, item)), "query")
    if not isinstance(prompts, dict) or "prompts" not in prompts:
        return Text(item, _not_empty(text), "document")
    dialogues, errors = read(prompts, item, {})
    if errors:
        raise PromptError("; ".join(f"prompt {key!r}: {error}" for key, error in errors.items()))
    asked = "\n".join(dialogue.turns[-1].messages[-1].text for dialogue in dialogues)
    return Text(item, _not_empty(asked), "query")


def embed_each(adapter: Any, texts: Sequence[Text]) -> list[Vector | Failure]:
    """A vector for each text, or why it has none.

    Raises:
        ConfigurationError, Unsupported: what is wrong is wrong for every text.
    """
    found: dict[int, Vector | Failure] = {}
    for kind in ("document", "query"):
        places = [i for i, text in enumerate(texts) if text.kind == kind]
        vectors = _vectors(adapter, [texts[i].text for i in places], kind) if places else []
        for i, vector in zip(places, vectors, strict=True):
            reason = f"it could not be embedded ({vector})"
            found[i] = Failure(texts[i].item, None, reason, i) if isinstance(vector, str) else vector
    return [found[i] for i in range(len(texts))]


class Embedding:
    """The part of `ModelAdapter` that embeds: its methods replace those of `dl.BaseModelAdapter`."""

    adapter: Any
    model_entity: Any
    configuration: Any
    feature_set: Any

    def embed(
        self, batch: Sequence[Text | Failure], failures: list[Failure] | None = None, **kwargs: Any
    ) -> list[Vector | None]:
        """The vector of each text, in order; None for what has none.

        Args:
            batch: what was read of the items.
            failures: receives what has no vector; it is logged where there is no such list.
        """
        vectors = iter(embed_each(self.adapter, [text for text in batch if isinstance(text, Text)]))
        found = [text if isinstance(text, Failure) else next(vectors) for text in batch]
        report([failure for failure in found if isinstance(failure, Failure)], failures)
        return [None if isinstance(vector, Failure) else vector for vector in found]

    def embed_items(
        self,
        items: list[Any],
        upload_features: bool | None = None,
        batch_size: int | None = None,
        progress: Any = None,
        **kwargs: Any,
    ) -> tuple[list[Any], list[Vector]]:
        """Embeds text items and prompt items; returns the items and their vectors.

        The vectors land as features in the model's feature set, in place of the items' earlier ones there.

        Args:
            upload_features: whether vectors are stored; None: as the configuration says, and where that says
                nothing those of text items alone, since prompt items are queries there.

        Raises:
            ConfigurationError: the model's vectors have not the length that the platform expects.
            EmbeddingError: at the end, when some have no vector; all others are stored.
        """
        configuration = dict(self.model_entity.configuration or {})
        stored = configuration.get("upload_features") if upload_features is None else upload_features
        if stored is not None and not isinstance(stored, bool):
            raise ConfigurationError(
                f"upload_features is {stored!r}: set it to true or false, or leave it out"
            )
        if stored is not False:
            self._check_vector_size()
        size = batches.batch_size(batch_size, configuration, BATCH_SIZE)
        failures: list[Failure] = []
        vectors: list[Vector] = []
        with (
            ThreadPoolExecutor(CONNECTIONS) as pool,
            tqdm(total=len(items), desc="embedding", unit="item", file=sys.stdout, disable=None) as bar,
        ):
            for start in range(0, len(items), size):
                batch = items[start : start + size]
                texts = list(pool.map(_read, batch))
                found = self.embed(texts, failures)
                vectors += [vector for vector in found if vector is not None]
                landing = [
                    (item, vector)
                    for item, text, vector in zip(batch, texts, found, strict=True)
                    if vector is not None and _lands(text, stored)
                ]
                failures += self._store_vectors(landing, pool)
                bar.update(len(batch))
        if failures:
            raise EmbeddingError(failures)
        return items, vectors

    def embed_dataset(
        self, dataset: Any, filters: Any = None, batch_size: int | None = None, progress: Any = None
    ) -> None:
        """Embeds the items of a dataset that a filter selects. Raises as `embed_items`."""
        # First: where no size is configured, the SDK makes a feature set for vectors of 256 numbers.
        self._check_vector_size()
        size = batches.batch_size(batch_size, self.model_entity.configuration, BATCH_SIZE)
        super().embed_dataset(dataset, filters, batch_size=size, progress=progress)  # type: ignore[misc]

    def _check_vector_size(self) -> None:
        """Sees that the platform expects vectors of the model's length; says it where nothing is said yet."""
        (vector,) = _embed(self.adapter, [PROBE], "document")
        size, name = len(vector), self.model_entity.name
        configured = self.model_entity.configuration.get("embeddings_size")
        if configured is None:
            self.configuration["embeddings_size"] = size  # Written to the platform by the SDK.
        elif configured != size:
            raise ConfigurationError(
                f"the vectors of model {name!r} have {size} numbers, and its configuration says "
                f"embeddings_size {configured!r}: set it to {size}"
            )
        if self.feature_set.size != size:
            raise ConfigurationError(
                f"the vectors of model {name!r} have {size} numbers, and its feature set "
                f"{self.feature_set.name!r} takes {self.feature_set.size}: delete it, or clone the model"
            )

    def _store_vectors(self, landing: list[tuple[Any, Vector]], pool: ThreadPoolExecutor) -> list[Failure]:
        """Stores vectors in one request, or one by one where that is refused; then removes earlier ones."""
        if not landing:
            return []
        try:
            self.feature_set.features.create(
                entity=[item for item, _ in landing],
                value=[vector for _, vector in landing],
                feature_set_id=self.feature_set.id,
                project_id=self.model_entity.project_id,
            )
        except Exception as error:
            if len(landing) > 1:
                return [failure for pair in landing for failure in self._store_vectors([pair], pool)]
            return [_failed(landing[0][0], "its vector could not be stored", error)]
        items = {item.id: item for item, _ in landing}.values()
        return [failure for failure in pool.map(self._keep_newest_vector, items) if failure]

    def _keep_newest_vector(self, item: Any) -> Failure | None:
        """Removes the vectors that an earlier run has stored for an item."""
        try:
            ours, vectors = self.feature_set.id, item.features.list().all()
            stored = [vector for vector in vectors if vector.feature_set_id == ours]
            for vector in sorted(stored, key=lambda vector: (vector.created_at, vector.id))[:-1]:
                vector.delete()
        except Exception as error:
            return _failed(item, "its vector is stored, but an earlier one could not be removed", error)
        return None


def _lands(text: Text | Failure, stored: bool | None) -> bool:
    """Whether a text's vector is stored; by default those of documents alone are."""
    return isinstance(text, Text) and text.kind == "document" if stored is None else stored


def _read(item: Any) -> Text | Failure:
    """What is embedded of an item. What cannot be read is returned, not raised."""
    try:
        # Not by the SDK, which follows an item that is a link.
        return read_text(item.id, remote.text_content(item.id, Snapshot.of_entity(item).size))
    except PromptError as error:
        return Failure(item.id, None, str(error))
    except Exception as error:
        return _failed(item, "it could not be read", error)


def _failed(item: Any, what: str, error: Exception) -> Failure:
    return Failure(item.id, None, f"{what} ({remote.why(error)})")


def _vectors(adapter: Any, texts: list[str], kind: str) -> list[Vector | str]:
    """A vector for each text, or the reason why it has none: where all fail together, each is tried alone."""
    try:
        return [
            vector.tolist() if np.isfinite(vector).all() else "its vector has numbers that are not finite"
            for vector in _embed(adapter, texts, kind)
        ]
    except (ConfigurationError, Unsupported):
        raise
    except Exception as error:
        if len(texts) == 1 or not _works(adapter):
            return [remote.why(error)] * len(texts)
    return [vector for text in texts for vector in _vectors(adapter, [text], kind)]


def _works(adapter: Any) -> bool:
    try:
        return len(_embed(adapter, [PROBE], "document")) == 1
    except Exception:
        return False


def _embed(adapter: Any, texts: list[str], kind: str) -> np.ndarray:
    if not isinstance(adapter, HuggingAdapter):
        raise Unsupported("this model file cannot embed: build it on adapters.hugging.HuggingAdapter")
    return adapter.engine.embed(texts, adapter.configuration.embedding, kind)


def _json(text: str) -> Any:
    """A text as JSON; None where it is none."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None
    except (ValueError, RecursionError) as error:  # A prompt item perhaps, but nobody can read it.
        raise PromptError(f"its JSON cannot be read ({type(error).__name__}): {error}") from None


def _not_empty(text: str) -> str:
    if not text.strip():
        raise PromptError("it has no text")
    return text
