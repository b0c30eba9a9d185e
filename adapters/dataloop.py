"""The platform's side: the adapter class that Dataloop's runner loads and calls."""

import io
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import dtlpy as dl
from tqdm import tqdm

import models
from adapters.annotations import collection
from adapters.hugging import Failure, report
from adapters.predicting import predict_each
from adapters.prompt_items import has_messages
from engine.errors import AdapterError, ConfigurationError, Unsupported

BATCH_SIZE = 32
CONNECTIONS = 16


class PredictionError(AdapterError):
    """A run in which some prompts have no answer. All others are answered, and their answers stored.

    Attributes:
        failures: what has no answer; `item` is the item's id.
    """

    def __init__(self, failures: list[Failure]) -> None:
        self.failures = failures
        super().__init__("no answer, while all else is stored:\n" + "\n".join(map(str, failures)))


class ModelAdapter(dl.BaseModelAdapter):
    """Loads the model file that `module_name` in the model's configuration names, and lets it answer."""

    def load(self, local_path: str, **kwargs: Any) -> None:
        """Builds the model from one snapshot of the configuration; weights in `local_path` win over the hub.

        Raises:
            ConfigurationError: no such model file, or an option that cannot be.
            LoadError: weights that cannot be loaded.
        """
        configuration = self._snapshot()
        name = configuration.get("module_name")
        if not name:
            raise ConfigurationError(
                f"the configuration of model {self.model_entity.name!r} has no module_name: set it to one of "
                + ", ".join(models.names())
            )
        adapter = models.find(name)(configuration)
        if hasattr(adapter, "load"):
            adapter.load(local_path)
        self.adapter = adapter

    def save(self, local_path: str, **kwargs: Any) -> None:
        """Writes the model into `local_path`, from where the SDK uploads it as the model's artifacts.

        Raises:
            Unsupported: a user's own model file without `save`.
        """
        if not hasattr(self.adapter, "save"):
            raise Unsupported(
                "this model file cannot save: give its HuggingAdapter a method save(local_path)"
            )
        self.adapter.save(local_path)

    def prepare_item_func(self, item: dl.Item) -> dict[str, Any] | Failure:
        """The item's JSON with its id, file name and (for messages) its annotations.

        What cannot be read is returned, not raised: it costs no other item its answer.
        """
        try:
            content = item.download(save_locally=False)
            if not isinstance(content, io.BytesIO):
                return Failure(0, item.id, None, "it could not be downloaded: look at it and run again")
            prompts = json.loads(content.getvalue())
            if not isinstance(prompts, dict):
                return Failure(0, item.id, None, "its content is no JSON object: upload a prompt item")
            prepared = {**prompts, "id": item.id, "filename": item.filename}
            if has_messages(prompts):
                prepared["annotations"] = [annotation.to_json() for annotation in item.annotations.list()]
        except Exception as error:
            return Failure(0, item.id, None, f"it could not be read ({type(error).__name__}: {error})")
        return prepared

    def predict(
        self,
        batch: list[dict[str, Any] | Failure],
        failures: list[Failure] | None = None,
        **kwargs: Any,
    ) -> list[dl.AnnotationCollection]:
        """The annotations of each prepared item, in order; none to a prompt of which a turn failed.

        Args:
            batch: what `prepare_item_func` returned.
            failures: receives what has no answer; it is logged where there is no such list.
        """
        failed = [item for item in batch if isinstance(item, Failure)]
        readable = [item for item in batch if not isinstance(item, Failure)]
        answers, unanswered = predict_each(self.adapter, readable, self.model_entity.name)
        failed += [replace(failure, item=readable[failure.position]["id"]) for failure in unanswered]
        report(failed, failures)
        # Half a conversation would replace a whole one that an earlier run has stored under its key.
        broken = {(failure.item, failure.key) for failure in failed}
        kept = iter(
            [
                answer
                for answer in found
                if (item["id"], answer["metadata"]["system"]["promptId"]) not in broken
            ]
            for item, found in zip(readable, answers, strict=True)
        )
        return [
            collection([] if isinstance(item, Failure) else next(kept), self.model_entity) for item in batch
        ]

    def predict_items(
        self, items: list[dl.Item], batch_size: int | None = None, **kwargs: Any
    ) -> tuple[list[dl.Item], list[dl.Annotation]]:
        """Answers items and stores the answers on them; returns the items and the stored annotations.

        The SDK's own gives up all for one bad item, deletes before it stores, and names a whole batch for one
        failed upload.

        Raises:
            PredictionError: at the end, when some have no answer; all others are stored.
        """
        size = batch_size or self._snapshot().get("batch_size") or BATCH_SIZE
        failures: list[Failure] = []
        stored: list[dl.Annotation] = []
        with (
            ThreadPoolExecutor(CONNECTIONS) as pool,
            tqdm(total=len(items), desc="predicting", unit="item", file=sys.stdout, disable=None) as progress,
        ):
            for start in range(0, len(items), size):
                batch = items[start : start + size]
                answers = self.predict(list(pool.map(self.prepare_item_func, batch)), failures)
                for result in pool.map(self._store, batch, answers):
                    if isinstance(result, Failure):
                        failures.append(result)
                    else:
                        stored += result
                progress.update(len(batch))
        if failures:
            raise PredictionError(failures)
        return items, stored

    def _store(self, item: dl.Item, answers: dl.AnnotationCollection) -> list[dl.Annotation] | Failure:
        """Stores an item's answers, then removes those they replace: this model's, to the same prompts."""
        if not len(answers):
            return []
        try:
            replaced = self._answers_on(item, {answer.metadata["system"]["promptId"] for answer in answers})
            stored = list(item.annotations.upload(annotations=answers))
            if replaced:
                filters = dl.Filters(resource=dl.FiltersResource.ANNOTATION)
                filters.add(field="id", values=replaced, operator=dl.FiltersOperations.IN)
                item.annotations.delete(filters=filters)
        except Exception as error:
            return Failure(
                0, item.id, None, f"its answers could not be stored ({type(error).__name__}: {error})"
            )
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

    def _snapshot(self) -> dict[str, Any]:
        # Not `self.configuration.get`: that writes the key back to the platform.
        return dict(self.model_entity.configuration or {})
