"""The entry point on the platform: the adapter class that Dataloop's runner loads and calls."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import dtlpy as dl

from adapters import evaluation, registry
from adapters.hugging import HuggingAdapter
from adapters.items.annotations import as_record, collection
from adapters.items.item import Snapshot
from adapters.items.prompt_items import has_messages
from adapters.items.stored import Record
from adapters.platform import artifacts, reading, remote
from adapters.platform.embedding import EmbeddingAdapter
from adapters.platform.evaluation import assessed, samples, upload
from adapters.platform.flow import ItemAnswers, complete_answers
from adapters.platform.plain import PlainItemsAdapter
from adapters.platform.progress import RunProgress
from adapters.platform.recipes import RECIPE
from adapters.platform.run import Run
from adapters.platform.storing import answers_of
from adapters.prediction import batches
from adapters.prediction.batches import predict_each
from adapters.prediction.failures import Failure, Unfinished, collect_or_log
from engine.confidence import ONE_PASS
from engine.configuration import override
from engine.errors import AdapterError, ConfigurationError, Unsupported
from engine.options import AdapterOptions

logger = logging.getLogger(__name__)

BATCH_SIZE = 32
# Options of a run, for a user's own model file too.
FLOW_OPTIONS = ("prompt_template", "resume", "stream", "stream_interval")
# Options of an evaluation, likewise.
EVALUATION_OPTIONS = ("measure", "right_from")


class PredictionError(Unfinished):
    """Some prompts of a run have no answer. All others are answered, and their answers are stored."""

    missing = "answer"


class ModelAdapter(PlainItemsAdapter, EmbeddingAdapter, dl.BaseModelAdapter):
    """Loads the model file that `module_name` in the model's configuration names, and lets it answer."""

    def load_from_model(self, model_entity: dl.Model | None = None, *args: Any, **kwargs: Any) -> None:
        """Downloads the artifacts and loads the model, as the SDK does, after `artifacts.check`.

        Raises:
            LoadError: an artifact is a link or leads out of the folder, or weights cannot be loaded.
            ConfigurationError: as `load`.
        """
        model = model_entity or self.model_entity
        try:
            artifacts.check(model.model_artifacts, remote.record)
            super().load_from_model(model_entity, *args, **kwargs)
        except AdapterError as error:
            # Before the traceback that the platform's runner prints, which ends with it.
            logger.error("model %r cannot be loaded: %s", model.name, error)
            if logger.isEnabledFor(logging.DEBUG):
                raise
            raise error.with_traceback(None) from None

    def load(self, local_path: str, **kwargs: Any) -> None:
        """Builds the model from a copy of the configuration; prefers weights in `local_path` to the hub.

        Raises:
            ConfigurationError: no such model file, or an invalid option.
            LoadError: weights that cannot be loaded.
        """
        configuration = self._configuration_copy()
        name = configuration.get("module_name")
        if not name:
            raise ConfigurationError(
                f"the configuration of model {self.model_entity.name!r} has no module_name: set it to one of "
                + ", ".join(registry.names())
            )
        kind = registry.find(name)
        if issubclass(kind, HuggingAdapter):
            # Of which dataset is known when it is answered.
            self._recipe = configuration.get("labels", kind.defaults.get("labels")) == RECIPE
            configuration |= {"labels": []} if self._recipe else {}
        adapter = kind(configuration)
        if hasattr(adapter, "load"):
            adapter.load(local_path)
        self.adapter = adapter

    def save(self, local_path: str, **kwargs: Any) -> None:
        """Saves the model to `local_path`; the SDK uploads that folder as the model's artifacts.

        Raises:
            Unsupported: a custom model file without `save`.
        """
        if not hasattr(self.adapter, "save"):
            raise Unsupported(
                "this model file cannot save: give its HuggingAdapter a method save(local_path)"
            )
        self.adapter.save(local_path)

    def prepare_item_func(self, item: dl.Item) -> dict[str, Any] | Failure:
        """The item's JSON with its id, file name and (for messages) this model's answers.

        An item that cannot be read is returned as a `Failure`: it does not affect other items.
        """
        snapshot, name = Snapshot.of_entity(item), self.model_entity.name
        try:
            content = reading.downloaded(snapshot, self._template(self._options(), {}))
            if isinstance(content, Failure):
                return content
            if has_messages(content):
                # Not the SDK's entities: these have to have the shape that it expects.
                found = answers_of(snapshot.dataset_id, [snapshot.id], name)
                snapshot.answers = found.get(snapshot.id, [])
            return reading.parsed(snapshot, content, name).for_batch()
        except Exception as error:
            return Failure(item.id, None, f"it could not be read ({remote.describe_error(error)})")

    def predict(
        self, batch: list[dict[str, Any] | Failure], failures: list[Failure] | None = None, **kwargs: Any
    ) -> list[dl.AnnotationCollection]:
        """The annotations of each prepared item, in order; none for a prompt with a failed turn.

        Args:
            batch: what `prepare_item_func` returned.
            failures: gets the prompts and items without an answer; without it they are logged.
            kwargs: generation options for this call.

        Raises:
            ConfigurationError: an unknown option or an invalid value.
        """
        if self._recipe and "labels" not in kwargs:
            raise ConfigurationError(
                "labels: recipe: predict_items and predict_dataset read it: call one of them"
            )
        failed = [item for item in batch if isinstance(item, Failure)]
        readable = [item for item in batch if not isinstance(item, Failure)]
        answers, unanswered = predict_each(self.adapter, readable, self.model_entity.name, **kwargs)
        kept: dict[str, ItemAnswers] = {}
        for i, (item, found) in enumerate(zip(readable, answers, strict=True)):
            mine = [replace(failure, item=item["id"]) for failure in unanswered if failure.position == i]
            kept[item["id"]] = complete_answers(found, mine)
            failed += mine
        collect_or_log(failed, failures)
        return [
            collection([] if isinstance(item, Failure) else kept[item["id"]], self.model_entity)
            for item in batch
        ]

    def predict_items(
        self,
        items: list[dl.Item],
        batch_size: int | None = None,
        progress: dl.Progress | None = None,
        resume: bool | None = None,
        **kwargs: Any,
    ) -> tuple[list[dl.Item], list[dl.Annotation]]:
        """Answers items and stores the answers on them; returns the items and the stored annotations.

        The next items are read, and answers are stored, while others are answered. New answers are stored
        first; then this model's earlier answers to the same prompts are removed.

        Args:
            batch_size: items per batch for a model file with its own `predict`.
            progress: gets the percentage of items that are done, at most every two seconds.
            resume: whether prompts that this model has answered are skipped; by default as configured.
            kwargs: generation options for this call.

        Raises:
            PredictionError: at the end, when some have no answer; all others are stored.
        """
        chosen = {item.id: item for item in items}
        stored: dict[str, list[dl.Annotation]] = {}

        def keep(identity: str, records: list[Record]) -> None:
            # Here and not at the end: the SDK's slow deep copy of each record overlaps with answering.
            made = dl.AnnotationCollection.from_json(_json=records, item=chosen[identity])
            stored[identity] = made.annotations

        options = self._with_labels(kwargs, [item.dataset_id for item in items])
        self._run(chosen.values(), len(chosen), keep, batch_size, progress, resume, options)
        return items, [annotation for identity in chosen for annotation in stored.get(identity, [])]

    def predict_dataset(
        self,
        dataset: dl.Dataset,
        filters: Any = None,
        batch_size: int | None = None,
        progress: dl.Progress | None = None,
        resume: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """As `predict_items`, for the items of a dataset that a filter selects, listed page by page."""
        query = remote.filters(filters).prepare()
        items = (
            Snapshot.of(item, dataset.id)
            for page in remote.pages(dataset.id, query)
            for item in page
            if item.get("type") in ("file", "db_row")
        )
        total = remote.count(dataset.id, query)
        options = self._with_labels(kwargs, [dataset.id])
        self._run(items, total, lambda identity, records: None, batch_size, progress, resume, options)

    def evaluate_model(
        self,
        model: dl.Model,
        dataset: dl.Dataset,
        filters: Any = None,
        progress: dl.Progress | None = None,
        context: Any = None,
    ) -> tuple[dl.Model, dl.Dataset]:
        """Answers the items of a dataset, and compares the answers with what people have annotated there.

        Raises:
            Unsupported: a package that evaluation needs is not installed.
            ConfigurationError: no right answer is known.
        """
        evaluation.require_packages()
        self.load_from_model(model_entity=model)
        options: dict[str, Any] = {}
        if isinstance(self.adapter, HuggingAdapter):
            options = {"confidence": self.adapter.raw_method, "confidence_methods": list(ONE_PASS)}
        try:
            self.predict_dataset(dataset, filters, progress=progress, **options)
        except PredictionError as error:
            logger.warning("%s", error)
        return self.evaluate(model, dataset, filters), dataset

    def evaluate(self, model: dl.Model, dataset: dl.Dataset, filters: Any = None) -> dl.Model:
        """Judges the stored answers of this model.

        The figures become metrics of the model; the report and `calibration.json` its artifacts.

        Raises:
            ConfigurationError: no right answer is known.
        """
        from adapters.evaluation.report import Subject

        method, name, described = "confidence", model.name, dict[str, Any]()
        if isinstance(self.adapter, HuggingAdapter):
            labels = self._with_labels({}, [dataset.id])
            method, name, described = self.adapter.evaluated(**labels)
        chosen = self._options()
        subject = Subject(name, described, chosen.measure, chosen.right_from, method)
        query = remote.filters(filters).prepare()
        found = assessed(dataset.id, query, model.name, subject, self._max_errors())
        upload(found, model.artifacts)
        model.metrics.create([dl.PlotSample(**one) for one in samples(found)], dataset.id)
        if isinstance(self.adapter, HuggingAdapter) and found.calibration is not None:
            self.adapter.calibration = found.calibration
        return model

    def _max_errors(self) -> list[float]:
        chosen = self._configuration_copy().get("max_error")
        return [] if chosen is None else [float(chosen)]

    def _run(
        self,
        items: Iterable[Any],
        total: int,
        keep: Callable[[str, list[Record]], object],
        batch_size: int | None,
        progress: dl.Progress | None,
        resume: bool | None,
        options: dict[str, Any],
    ) -> None:
        """Answers items; `keep` is called with the id of each item that is done and its stored answers."""
        given = {key: options.pop(key) for key in FLOW_OPTIONS if key in options}
        chosen = override(self._options(), {**given, "resume": resume})
        size = batches.batch_size(batch_size, self._configuration_copy(), BATCH_SIZE)
        run = Run(
            self.adapter,
            self.model_entity.name,
            chosen,
            size,
            self._record,
            keep,
            RunProgress(total, progress),
            self._template(chosen, options),
        )
        failures = run.over(items, options)
        if failures:
            raise PredictionError(failures)

    def _record(self, answer: Mapping[str, Any]) -> Record:
        return as_record(answer, self.model_entity)

    def _options(self) -> AdapterOptions:
        if isinstance(self.adapter, HuggingAdapter):
            return self.adapter.configuration.adapter
        configuration = self._configuration_copy()  # The other keys are the user's own.
        return override(
            AdapterOptions(), {key: configuration.get(key) for key in FLOW_OPTIONS + EVALUATION_OPTIONS}
        )

    def _configuration_copy(self) -> dict[str, Any]:
        # Not `self.configuration.get`: that writes the key back to the platform.
        return dict(self.model_entity.configuration or {})
