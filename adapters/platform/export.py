"""Corrected prompt items of a dataset → training data, as `adapters.items.training` writes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from adapters.items.item import Snapshot
from adapters.items.stored import Record
from adapters.items.training import FORMS, Export, write
from adapters.platform.evaluation import items_with_answers
from adapters.platform.flow import WORKERS
from adapters.platform.reading import downloaded
from adapters.prediction.failures import Failure
from engine.errors import ConfigurationError


def export_dataset(dataset: Any, path: str | Path, form: str, filters: Any = None) -> Export:
    """Writes what people have corrected on the items of a dataset as training data, JSON lines.

    Args:
        dataset: the SDK's entity.
        form: "chosen_rejected" (pairs of answers, for DPO) or "sft" (conversations), as trl's trainers read
            them.
        filters: the SDK's, for some of the items.

    Raises:
        ConfigurationError: an unknown form, or there is nothing to write.
        RemoteError: items or annotations could not be listed.
    """
    if form not in FORMS:
        raise ConfigurationError(f"form {form!r} is unknown: take one of {', '.join(FORMS)}")
    query = {"filter": {"$and": [{"type": "file"}]}} if filters is None else filters.prepare()
    return write(_items(dataset.id, query), form, Path(path))


def _items(dataset_id: str, query: Record) -> Iterator[Mapping[str, Any] | Failure]:
    """The items that have answers, as JSON with their annotations, or why one cannot be read."""
    with ThreadPoolExecutor(WORKERS) as readers:
        for items, found_on in items_with_answers(dataset_id, query):
            snapshots = [Snapshot.of(items[item_id], dataset_id) for item_id in found_on]
            for snapshot, content in zip(snapshots, readers.map(downloaded, snapshots), strict=True):
                if isinstance(content, Failure):
                    yield content
                else:
                    yield {**content, "filename": snapshot.filename, "annotations": found_on[snapshot.id]}
