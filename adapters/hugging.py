"""The base of every model file: a configuration in, answers to batches of prompt items out.

Importing this imports no torch: the engine is imported when a model loads.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from adapters.annotations import as_dict
from adapters.prompt_items import item_name, read
from engine.dialogues import Engine, converse
from engine.errors import AdapterError, ConfigurationError
from engine.options import override, split
from engine.types import Dialogue

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Failure:
    """Something in a batch that has no answer: an item, or one of its prompts.

    Attributes:
        position: the item's place in the batch.
        item: how the item is named to the user.
        key: the prompt's key; None for the whole item.
        reason: what is wrong and what to do.
    """

    position: int
    item: str
    key: str | None
    reason: str

    def __str__(self) -> str:
        prompt = "" if self.key is None else f"prompt {self.key!r}: "
        return f"{self.item}: {prompt}{self.reason}"


class HuggingAdapter:
    """A Hugging Face model that answers prompt items. A model file subclasses it and names the model.

    Attributes:
        model_name: hub id or local folder; the configuration's wins, then the weights among the artifacts.
        defaults: options that the configuration may change.
    """

    model_name: ClassVar[str | None] = None
    defaults: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, configuration: Mapping[str, Any] | None = None) -> None:
        """Checks the configuration; loads nothing yet.

        Raises:
            ConfigurationError: an option that is unknown or cannot be; its key is named.
        """
        self.load_options, self.options = split(
            {"model_name": self.model_name}, self.defaults, dict(configuration or {})
        )
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
        """
        from engine.backends.local import LocalEngine
        from engine.loading import load

        options = self.load_options
        if local_path is not None and _has_weights(Path(local_path)):
            options = options.model_copy(update={"model_name": str(local_path), "revision": None})
        self._engine = LocalEngine(load(options))
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
        signed = model_name or self.name
        chosen = override(self.options, options) if options else self.options
        failed: list[Failure] = []
        dialogues: list[tuple[int, Dialogue]] = []
        for position, item in enumerate(batch):
            name = item_name(item, f"item {position + 1}")
            try:
                found, unreadable = read(item, signed)
            except AdapterError as error:
                failed.append(Failure(position, name, None, str(error)))
                continue
            dialogues += [(position, dialogue) for dialogue in found]
            failed += [Failure(position, name, key, str(error)) for key, error in unreadable.items()]
        results: list[list[dict[str, Any]]] = [[] for _ in batch]
        answered = converse(self.engine, [dialogue for _, dialogue in dialogues], chosen)
        for (position, dialogue), answers in zip(dialogues, answered, strict=True):
            name = item_name(batch[position], f"item {position + 1}")
            for turn, answer in zip(dialogue.turns, answers, strict=True):
                if isinstance(answer.error, ConfigurationError):
                    raise answer.error  # All have the same options: it is wrong for all of them.
                if answer.error is None:
                    results[position].append(as_dict(turn.key, answer, signed))
                else:
                    failed.append(Failure(position, name, turn.key, str(answer.error)))
        report(failed, failures)
        return results


def report(failed: Sequence[Failure], failures: list[Failure] | None) -> None:
    """Hands over what has no answer, or logs it where there is no list to take it."""
    if failures is not None:
        failures += failed
    else:
        for failure in failed:
            logger.warning("no answer: %s", failure)


def _has_weights(folder: Path) -> bool:
    return any(any(folder.glob(f"*.{ending}")) for ending in ("safetensors", "bin"))
