"""One run of a model over items of the platform: its flow, partial annotations and progress."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from adapters.hugging import HuggingAdapter
from adapters.items import context
from adapters.items.annotations import as_dict
from adapters.items.item import Item
from adapters.items.plain import PromptTemplate
from adapters.items.stored import Record
from adapters.platform import images, remote
from adapters.platform.flow import Flow, ItemAnswers
from adapters.platform.partial import PartialAnnotations
from adapters.platform.progress import RunProgress
from adapters.prediction.answering import OnDone
from adapters.prediction.batches import accepts_stream, predict_batches
from adapters.prediction.failures import Failure
from engine.options import AdapterOptions
from engine.types import Answer, Usage


class Run:
    """Answers items and stores the answers; implements the callbacks (`Stages`) of its flow."""

    def __init__(
        self,
        adapter: Any,
        model_name: str,
        options: AdapterOptions,
        batch_size: int,
        record: Callable[[Mapping[str, Any]], Record],
        keep: Callable[[str, list[Record]], object],
        progress: RunProgress,
        template: PromptTemplate | None = None,
    ) -> None:
        """Starts nothing yet.

        Args:
            adapter: the adapter of a model file, ours or a custom one.
            model_name: the name in the metadata of the answers.
            options: the options of the run.
            batch_size: items per batch for a model file with its own `predict`.
            record: converts an answer into an annotation record.
            keep: called with the id of each item that is done, and its stored new answers.
            progress: counts the items that are done.
            template: makes prompt items of other items; None refuses them.
        """
        self._adapter = adapter
        self._model_name = model_name
        self._options = options
        self._one_by_one = accepts_stream(adapter)
        self._batch_size = 1 if self._one_by_one else batch_size
        self._record = record
        self._keep = keep
        self._progress = progress
        self._template = template
        self._partial = PartialAnnotations(self._partial_record, options.stream_interval)

    def over(self, items: Iterable[Any], generation: Mapping[str, Any]) -> list[Failure]:
        """Answers all items.

        Args:
            items: the SDK's entities or snapshots; consumed when there is room for them.
            generation: generation options for this run.

        Returns:
            The prompts and items without an answer.

        Raises:
            Exception: any error of the model file or of the iterator `items`, after all answers so far are
                stored.
        """
        flow = Flow(self, self._model_name, self._options.resume, self._batch_size, self._template)

        def answer(coming: Iterator[Item | None], on_done: OnDone) -> None:
            self._answer(coming, on_done, generation)

        try:
            with self._progress:
                flow.run(items, answer, waiting=not self._one_by_one)
        finally:
            self._partial.end()
        return flow.failures

    def complete(self, item: Item) -> None:
        """Fetches what an item's open questions need: retrieved context, and images for a server.

        A custom model file gets neither.
        """
        if isinstance(self._adapter, HuggingAdapter):
            wanted = context.wanted(item, self._options.add_metadata)
            hosts = self._options.allowed_hosts
            item.sources = context.fetch(wanted, remote.record, remote.text_content, hosts)
            if self._options.backend == "endpoint":
                images.embed(item, hosts)

    def to_records(self, answers: ItemAnswers) -> list[Record]:
        """Converts an item's answers into annotation records."""
        return [self._record(answer) for answer in answers]

    def partial_of(self, item_id: str) -> list[str]:
        """Ends the updates of an item's partial annotations and returns their ids."""
        return self._partial.close(item_id)

    def ended(self, item_id: str, stored: list[Record]) -> None:
        """Called once for each item at its end, with its stored new answers; empty if it has none."""
        self._keep(item_id, stored)
        self._progress.ended()

    def _answer(self, coming: Iterator[Item | None], on_done: OnDone, generation: Mapping[str, Any]) -> None:
        if self._one_by_one:
            on_delta = self._partial.grow if self._options.stream else None
            self._adapter.answer(coming, on_done, self._model_name, on_delta, **generation)
        else:
            items = (item for item in coming if item is not None)
            predict_batches(self._adapter, items, on_done, self._model_name, self._batch_size, **generation)

    def _partial_record(self, key: str, text: str) -> Record:
        return self._record(
            as_dict(key, Answer(text, (), None, None, "length", Usage(0, 0)), self._model_name)
        )
