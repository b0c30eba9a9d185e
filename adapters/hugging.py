"""The base class of the model files: loads a model by its configuration and answers prompt items.

Importing this imports no torch: the engine is imported when a model loads.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from adapters import calibrated
from adapters.items.context import reader
from adapters.items.item import Item
from adapters.items.provenance import Source
from adapters.openai_api.responses import Certainty, raw_certainty
from adapters.prediction.answering import OnDone, OnItemDelta, answer
from adapters.prediction.failures import Failure, collect_or_log
from adapters.python_api import PythonAPI
from engine.confidence.calibration import CALIBRATED, Calibration
from engine.configuration import override, split
from engine.contract import Engine
from engine.errors import ConfigurationError, PromptError
from engine.options import GenerationOptions, LoadOptions

logger = logging.getLogger(__name__)


class HuggingAdapter(PythonAPI):
    """A Hugging Face model that answers prompt items. A model file subclasses it and names the model.

    Attributes:
        model_name: hub id or local folder. `model_name` in the configuration replaces it; weights among the
            model's artifacts are used instead of either.
        defaults: values of options that the configuration may replace.
        examples: questions that the chat page offers to begin with.
        task: "embed" for an embedding model, which cannot answer.
        calibration: what was read from calibration.json, if there is one.
    """

    model_name: ClassVar[str | None] = None
    defaults: ClassVar[Mapping[str, Any]] = {}
    examples: ClassVar[Sequence[str]] = ()
    task: ClassVar[Literal["generate", "embed"]] = "generate"

    def __init__(self, configuration: Mapping[str, Any] | None = None) -> None:
        """Checks the configuration; loads nothing yet.

        Raises:
            ConfigurationError: an unknown option or an invalid value; its key is named.
        """
        self.configuration = split({"model_name": self.model_name}, self.defaults, dict(configuration or {}))
        self._engine: Engine | None = None
        self.calibration: Calibration | None = None

    def __repr__(self) -> str:
        """Says which model it is, and where it runs."""
        return f"<{self.name}: {'not loaded' if self._engine is None else repr(self._engine)}>"

    @property
    def name(self) -> str:
        """The model's default name: that of its file in models/, without the ending."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def weights_name(self) -> str:
        """The hub id or folder of its weights, or its name on the server that answers."""
        chosen = self.configuration.load or self.configuration.endpoint
        return chosen.model_name or self.name

    @property
    def engine(self) -> Engine:
        """The loaded engine, which generates, scores and embeds.

        Raises:
            ConfigurationError: the model is not loaded.
        """
        if self._engine is None:
            raise ConfigurationError(f"{self.name} is not loaded: call load() before predict()")
        return self._engine

    def load(self, local_path: str | Path | None = None) -> HuggingAdapter:
        """Loads the model: from `local_path` if that has weights, else from `model_name`.

        Raises:
            ConfigurationError: `chat_template` is no valid template.
            LoadError: the model is gated, missing, offline, unsafe or too large; the text says what to do.
            Unsupported: transformers itself cannot generate with this model.
        """
        self.calibration = calibrated.find(local_path, self.configuration)
        if (template := self.configuration.generation.chat_template) is not None:
            from engine.prompting.sandbox import check

            check(template)
        match self.configuration.adapter.backend:
            case "local":
                self._engine = self._local_engine(local_path)
            case "vllm":
                self._engine = None  # One that runs already is to give its memory back first.
                self._engine = self._vllm_engine(local_path)
            case "endpoint":
                from engine.backends.endpoint import EndpointEngine

                self._engine = EndpointEngine(self.configuration.endpoint)
        if self.configuration.adapter.cache is not None:
            self.engine.cache_in(self.configuration.adapter.cache)
        self._log_memory("after loading")
        return self

    def _load_options(self, local_path: str | Path | None) -> LoadOptions:
        """What to load; weights in `local_path` are taken before all others."""
        options = self.configuration.load
        assert options is not None
        if local_path is not None and _has_weights(Path(local_path)):
            return options.model_copy(update={"local_path": str(local_path)})
        return options

    def _vllm_engine(self, local_path: str | Path | None) -> Engine:
        from engine.backends.vllm.engine import VLLMEngine

        options, vllm = self._load_options(local_path), self.configuration.vllm
        assert vllm is not None
        return VLLMEngine(options, vllm, self.configuration.endpoint, self.task)

    def _log_memory(self, when: str) -> None:
        if self.engine.memory is not None:
            logger.info("%s: memory %s: %s", self.name, when, self.engine.memory)

    def _local_engine(self, local_path: str | Path | None) -> Engine:
        from engine.backends.local import LocalEngine
        from engine.loading import load

        loaded = load(self._load_options(local_path), self.task)
        if loaded.classifies:
            from engine.backends.classifier import ClassifierEngine

            return ClassifierEngine(loaded)
        engine = LocalEngine(loaded)
        if self.task == "generate":
            engine.check_can_generate()  # Reports it now, not at the first question.
        return engine

    def save(self, local_path: str | Path) -> None:
        """Saves the loaded model and its tokenizer to a folder, which `load` accepts."""
        self.engine.save(local_path)

    def predict(
        self,
        batch: Sequence[Mapping[str, Any]],
        model_name: str | None = None,
        failures: list[Failure] | None = None,
        **options: Any,
    ) -> list[list[dict[str, Any]]]:
        """Answers every open turn of every item; all conversations of the batch are generated together.

        Args:
            batch: the JSON of prompt items. An item may also have "filename" and "id", which name it in
                messages to the user, and "annotations", its earlier answers.
            model_name: the name in the metadata of the answers; by default the model file's.
            failures: gets the prompts and items without an answer; without it they are logged.
            options: generation options for this call.

        Returns:
            For each item its answers in the order of its prompts, as `annotations.as_dict` makes them. A
            failed prompt or item has none, and does not affect others.

        Raises:
            ConfigurationError: an unknown option, an invalid value, or a model that is not loaded.
            PromptError: `batch` is no list.
        """
        if isinstance(batch, str | Mapping) or not isinstance(batch, Iterable):
            raise PromptError("a list of items is needed: [item]")
        name = model_name or self.name
        items = [Item.of(given, name, f"item {i + 1}") for i, given in enumerate(batch)]
        done: dict[Item, tuple[list[dict[str, Any]], list[Failure]]] = {}
        self.answer(items, lambda item, *found: done.update({item: found}), name, **options)
        failed = [replace(failure, position=i) for i, item in enumerate(items) for failure in done[item][1]]
        collect_or_log(failed, failures)
        return [done[item][0] for item in items]

    def answer(
        self,
        items: Iterable[Item | None],
        on_done: OnDone,
        model_name: str | None = None,
        on_delta: OnItemDelta | None = None,
        **options: Any,
    ) -> None:
        """Answers a stream of items; calls `on_done` for each as soon as all of it is answered.

        Args:
            items: consumed when the engine has room; None means that the next item is not available yet.
            on_done: called with an item, its answers, and its failures.
            model_name: the name in the metadata of the answers; by default the model file's.
            on_delta: called with each new piece of an answer while it is generated.
            options: generation options for this call.

        Raises:
            ConfigurationError: an unknown option, an invalid value, or a model that is not loaded.
        """
        chosen = self.configuration.adapter
        opened = reader(
            self.engine, chosen.max_context_tokens, chosen.inject_context_to_user, chosen.add_metadata
        )
        generation, calibration = self._calibrated(override(self.configuration.generation, options))

        def done(item: Item, answers: list[dict[str, Any]], failures: list[Failure]) -> None:
            if calibration is not None:
                rate = generation.max_error
                answers = [calibrated.calibrated(one, calibration, rate) for one in answers]
            on_done(item, answers, failures)

        source = Source.of(self.configuration, generation, self.engine.revision)
        answer(self.engine, items, done, model_name or self.name, generation, opened, on_delta, source)
        self._log_memory("after a run")

    @property
    def raw_method(self) -> str:
        """The method of the confidence before calibration."""
        method = self.configuration.generation.confidence
        if method != CALIBRATED:
            return method
        return self.calibration.confidence if self.calibration else GenerationOptions().confidence

    def evaluated(self, **options: Any) -> tuple[str, str, dict[str, Any]]:
        """The method of the raw confidence, the model's name and the options that a calibration is for.

        Args:
            options: generation options of the run.
        """
        generation = override(self.configuration.generation, options)
        return self.raw_method, self.name, calibrated.described(self.configuration, generation)

    def prepared(self, generation: GenerationOptions) -> tuple[GenerationOptions, Certainty]:
        """The options to ask the engine with, and what its answers are worth: calibrated where that applies.

        Args:
            generation: the options of a call; `confidence` may be "calibrated", and its `n`, which is for
                prompt items, has no effect.
        """
        raw, calibration = self._calibrated(generation.model_copy(update={"n": 1}))
        if calibration is None:
            return raw, raw_certainty
        return raw, lambda answer: calibrated.stated(answer.confidence, calibration, raw.max_error)

    def _calibrated(self, generation: GenerationOptions) -> tuple[GenerationOptions, Calibration | None]:
        return calibrated.choose(self.calibration, self.configuration, generation, self.name)


def _has_weights(folder: Path) -> bool:
    return any(any(folder.glob(f"*.{ending}")) for ending in ("safetensors", "bin"))
