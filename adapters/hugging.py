"""The base of every model file: a configuration in, answers to batches of prompt items out.

Importing this imports no torch: the engine is imported when a model loads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from adapters.calls import Calls
from adapters.items.context import reader
from adapters.items.item import Item
from adapters.prediction.answering import OnDelta, OnDone, answer
from adapters.prediction.failures import Failure, report
from engine.configuration import override, split
from engine.contract import Engine
from engine.errors import ConfigurationError


class HuggingAdapter(Calls):
    """A Hugging Face model that answers prompt items. A model file subclasses it and names the model.

    Attributes:
        model_name: hub id or local folder; the configuration's wins, then the weights among the artifacts.
        defaults: options that the configuration may change.
        examples: questions that the chat page offers to begin with.
        task: "embed" for a model that makes vectors of texts and cannot answer.
    """

    model_name: ClassVar[str | None] = None
    defaults: ClassVar[Mapping[str, Any]] = {}
    examples: ClassVar[Sequence[str]] = ()
    task: ClassVar[Literal["generate", "embed"]] = "generate"

    def __init__(self, configuration: Mapping[str, Any] | None = None) -> None:
        """Checks the configuration; loads nothing yet.

        Raises:
            ConfigurationError: an option that is unknown or cannot be; its key is named.
        """
        self.configuration = split({"model_name": self.model_name}, self.defaults, dict(configuration or {}))
        self._engine: Engine | None = None

    @property
    def name(self) -> str:
        """What the model is called where nobody names it: its file in models/."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def engine(self) -> Engine:
        """What answers.

        Raises:
            ConfigurationError: nothing is loaded yet.
        """
        if self._engine is None:
            raise ConfigurationError(f"{self.name} is not loaded: call load() before predict()")
        return self._engine

    def load(self, local_path: str | Path | None = None) -> HuggingAdapter:
        """Loads the model: from `local_path` where that holds weights, else from `model_name`.

        Raises:
            LoadError: gated, missing, offline, unsafe or too large; the text says what to do.
            Unsupported: a model that transformers itself cannot generate with.
        """
        options = self.configuration.load
        if options is None:
            from engine.backends.endpoint import EndpointEngine

            self._engine = EndpointEngine(self.configuration.endpoint)
            return self
        from engine.backends.local import LocalEngine
        from engine.loading import load

        if local_path is not None and _has_weights(Path(local_path)):
            options = options.model_copy(update={"local_path": str(local_path)})
        engine = LocalEngine(load(options, self.task))
        if self.task == "generate":
            engine.generator()  # A model that cannot be run is refused now, not at the first question.
        self._engine = engine
        return self

    def save(self, local_path: str | Path) -> None:
        """Writes the loaded model and its tokenizer into a folder that `load` takes."""
        self.engine.save(local_path)

    def predict(
        self,
        batch: Sequence[Mapping[str, Any]],
        model_name: str | None = None,
        failures: list[Failure] | None = None,
        **options: Any,
    ) -> list[list[dict[str, Any]]]:
        """Answers every open turn of every item, all conversations of the batch together.

        Args:
            batch: prompt items as their JSON; "filename" or "id" name an item in messages, "annotations"
                are the answers it has.
            model_name: what the answers are signed with; the model file's name by default.
            failures: receives what has no answer; it is logged where there is no such list.
            options: generation options for this call.

        Returns:
            For each item its answers in the order of its prompts, as `annotations.as_dict` has them. What
            fails is missing there and costs nothing else its answer.

        Raises:
            ConfigurationError: an option that is unknown or cannot be, or a model that is not loaded.
        """
        name = model_name or self.name
        items = [Item.of(given, name, f"item {i + 1}") for i, given in enumerate(batch)]
        done: dict[Item, tuple[list[dict[str, Any]], list[Failure]]] = {}
        self.answer(items, lambda item, *found: done.update({item: found}), name, **options)
        failed = [replace(failure, position=i) for i, item in enumerate(items) for failure in done[item][1]]
        report(failed, failures)
        return [done[item][0] for item in items]

    def answer(
        self,
        items: Iterable[Item | None],
        on_done: OnDone,
        model_name: str | None = None,
        on_delta: OnDelta | None = None,
        **options: Any,
    ) -> None:
        """Answers items that come one by one; each leaves as soon as all of it is answered.

        Args:
            items: taken as the engine has room for them; None says that the next one is not there yet.
            on_done: takes an item, its answers, and what of it has none.
            model_name: what the answers are signed with; the model file's name by default.
            on_delta: takes what each answer grows by while it is written.
            options: generation options for this call.

        Raises:
            ConfigurationError: an option that is unknown or cannot be, or a model that is not loaded.
        """
        chosen = self.configuration.adapter
        opened = reader(
            self.engine, chosen.max_context_tokens, chosen.inject_context_to_user, chosen.add_metadata
        )
        generation = override(self.configuration.generation, options)
        answer(self.engine, items, on_done, model_name or self.name, generation, opened, on_delta)


def _has_weights(folder: Path) -> bool:
    return any(any(folder.glob(f"*.{ending}")) for ending in ("safetensors", "bin"))
