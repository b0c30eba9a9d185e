"""The base of every model file: a configuration in, answers to batches of prompt items out.

Importing this imports no torch: the engine is imported when a model loads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from adapters.calls import Calls
from adapters.items.context import reader
from adapters.prediction.failures import Failure, report
from adapters.prediction.in_flight import Done, Grown, Read, answer_all, answer_each
from engine.configuration import override, split
from engine.contract import Engine
from engine.errors import ConfigurationError


class HuggingAdapter(Calls):
    """A Hugging Face model that answers prompt items. A model file subclasses it and names the model.

    Attributes:
        model_name: hub id or local folder; the configuration's wins, then the weights among the artifacts.
        defaults: options that the configuration may change.
        task: "embed" for a model that makes vectors of texts and cannot answer.
    """

    model_name: ClassVar[str | None] = None
    defaults: ClassVar[Mapping[str, Any]] = {}
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
        chosen = override(self.configuration.generation, options)
        answers, failed = answer_all(self.engine, batch, model_name or self.name, chosen, self._reader())
        report(failed, failures)
        return answers

    def answer(
        self,
        items: Iterable[Mapping[str, Any] | None],
        done: Done,
        model_name: str | None = None,
        grown: Grown | None = None,
        **options: Any,
    ) -> None:
        """As `predict`, of items that come one by one; each is told as soon as all of it is answered.

        Args:
            items: prompt items as their JSON, taken as the engine has room; None says that the next one
                is not there yet.
            done: told an item's position, its answers, and what of it has none.
            grown: told what each answer grows by while it is written.

        Raises:
            ConfigurationError: as `predict`.
        """
        chosen = override(self.configuration.generation, options)
        answer_each(self.engine, items, done, model_name or self.name, chosen, self._reader(), grown)

    def _reader(self) -> Read:
        """What reads an item: its questions have the context that was fetched for them."""
        chosen = self.configuration.adapter
        return reader(
            self.engine, chosen.max_context_tokens, chosen.inject_context_to_user, chosen.add_metadata
        )


def _has_weights(folder: Path) -> bool:
    return any(any(folder.glob(f"*.{ending}")) for ending in ("safetensors", "bin"))
