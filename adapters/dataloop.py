"""The platform's side: the adapter class that Dataloop's runner loads and calls.

The runner executes this file without naming it in `sys.modules`, so a dataclass here must not have its
annotations postponed: it would look them up there.
"""

import io
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dtlpy as dl

import models
from adapters.annotations import collection
from adapters.hugging import Failure
from engine.errors import AdapterError, ConfigurationError

logger = logging.getLogger(__name__)


class PredictionError(AdapterError):
    """A run in which some items have no answer, or not all of them. What was answered is stored.

    Attributes:
        failures: (item id, reason) of each.
    """

    def __init__(self, failures: list[tuple[str, str]]) -> None:
        self.failures = failures
        lines = [f"{item}: {reason}" for item, reason in failures]
        super().__init__(f"no answer for {len(lines)}, the rest is stored:\n" + "\n".join(lines))


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An item that could not be prepared, in its place in the batch."""

    item_id: str
    reason: str


class ModelAdapter(dl.BaseModelAdapter):
    """Loads the model file that `module_name` in the model's configuration names, and lets it answer."""

    def load(self, local_path: str, **kwargs: Any) -> None:
        """Builds the model from one snapshot of the configuration; weights in `local_path` win over the hub.

        Raises:
            ConfigurationError: no such model file, or an option that cannot be.
            LoadError: weights that cannot be loaded.
        """
        # Not `self.configuration.get`: that writes the key back to the platform.
        configuration = dict(self.model_entity.configuration or {})
        if "module_name" not in configuration:
            raise ConfigurationError(
                f"the configuration of model {self.model_entity.name!r} has no module_name: set it to one of "
                + ", ".join(models.names())
            )
        adapter = models.find(configuration["module_name"])(configuration)
        if hasattr(adapter, "load"):
            adapter.load(local_path)
        self.adapter = adapter

    def save(self, local_path: str, **kwargs: Any) -> None:
        """Writes the model into `local_path`, from where the SDK uploads it as the model's artifacts."""
        self.adapter.save(local_path)

    def prepare_item_func(self, item: dl.Item) -> dict[str, Any] | Unreadable:
        """The item's JSON with its id, file name and (for messages) its annotations.

        What cannot be read is returned, not raised: for an exception here the SDK gives up the whole run.
        """
        try:
            content = item.download(save_locally=False)
            if not isinstance(content, io.BytesIO):
                return Unreadable(item.id, "it could not be downloaded: check the item and run again")
            prompts = json.loads(content.getvalue())
            if not isinstance(prompts, dict):
                return Unreadable(item.id, "its content is no JSON object: upload a prompt item")
            prepared = {**prompts, "id": item.id, "filename": item.filename}
            if _has_messages(prompts):
                prepared["annotations"] = [annotation.to_json() for annotation in item.annotations.list()]
        except Exception as error:  # Whatever is wrong with one item costs that item only.
            return Unreadable(item.id, f"it could not be read ({type(error).__name__}: {error})")
        return prepared

    def predict(
        self,
        batch: list[dict[str, Any] | Unreadable],
        failures: list[tuple[str, str]] | None = None,
        **kwargs: Any,
    ) -> list[dl.AnnotationCollection]:
        """The annotations of each prepared item, in order; empty where nothing could be answered.

        Args:
            batch: what `prepare_item_func` returned.
            failures: receives (item id, reason) of what has no answer; logged where there is no such list.
        """
        failed = [(item.item_id, item.reason) for item in batch if isinstance(item, Unreadable)]
        readable = [item for item in batch if not isinstance(item, Unreadable)]
        found = iter(self._answers(readable, failed))
        collections = [
            dl.AnnotationCollection() if isinstance(item, Unreadable) else next(found) for item in batch
        ]
        if failures is not None:
            failures += failed
        else:
            for item, reason in failed:
                logger.warning("no answer for item %s: %s", item, reason)
        return collections

    def predict_items(
        self, items: list[dl.Item], batch_size: int | None = None, **kwargs: Any
    ) -> tuple[list[dl.Item], list[dl.Annotation]]:
        """Answers items and stores the answers on them.

        Raises:
            PredictionError: at the end, when some have no answer; the others are stored.
        """
        failures: list[tuple[str, str]] = []
        result = super().predict_items(items, batch_size, failures=failures, **kwargs)
        if failures:
            raise PredictionError(failures)
        return result

    def _answers(
        self, batch: list[dict[str, Any]], failed: list[tuple[str, str]]
    ) -> list[dl.AnnotationCollection]:
        """A batch's annotations; where the model raises, item by item, so that one costs no other."""
        if not batch:
            return []
        unanswered: list[Failure] = []
        try:
            answers = self.adapter.predict(batch, model_name=self.model_entity.name, failures=unanswered)
            if len(answers) != len(batch):
                raise AdapterError(f"predict returned {len(answers)} lists for {len(batch)} items")
            collections = [collection(item_answers, self.model_entity) for item_answers in answers]
        except Exception as error:
            if len(batch) > 1:
                return [self._answers([item], failed)[0] for item in batch]
            failed.append((batch[0]["id"], f"{type(error).__name__}: {error}"))
            return [dl.AnnotationCollection()]
        failed += [(batch[failure.position]["id"], failure.reason) for failure in unanswered]
        return collections

    def _upload_model_annotations(self, item: dl.Item, predictions: dl.AnnotationCollection) -> Any:
        """Stores new answers, then removes the ones they replace: this model's, to the same prompts.

        The SDK's own deletes first, so that a failed upload loses the old answers, and all of them, so that
        earlier turns lose theirs.
        """
        if not len(predictions):
            return predictions
        replaced = self._answers_on(item, {a.metadata["system"]["promptId"] for a in predictions})
        stored = item.annotations.upload(annotations=predictions)
        if replaced:
            filters = dl.Filters(resource=dl.FiltersResource.ANNOTATION)
            filters.add(field="id", values=replaced, operator=dl.FiltersOperations.IN)
            item.annotations.delete(filters=filters)
        return stored

    def _answers_on(self, item: dl.Item, keys: set[str]) -> list[str]:
        """Ids of this model's answers to these prompts on an item."""
        filters = dl.Filters(resource=dl.FiltersResource.ANNOTATION)
        for place in ("metadata.user.model.name", "metadata.system.model.name"):
            filters.add(field=place, values=self.model_entity.name, method=dl.FiltersMethod.OR)
        return [
            annotation.id
            for annotation in item.annotations.list(filters=filters)
            if annotation.metadata.get("system", {}).get("promptId") in keys
        ]


def _has_messages(prompts: Mapping[str, Any]) -> bool:
    content = prompts.get("prompts")
    return isinstance(content, dict) and any(isinstance(prompt, list) for prompt in content.values())
