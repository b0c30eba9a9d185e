"""A replica of the model in a process of Ray's: names of files in, rows of results out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from adapters import registry
from adapters.cli.files import answer_files
from adapters.cli.inputs import inputs, prompt_template
from adapters.cli.table import rows
from engine.errors import AdapterError

if TYPE_CHECKING:
    from adapters.cli.forms import Asked

Batch = dict[str, np.ndarray]


class Worker:
    """Loads the model once, and answers one batch of files after another."""

    def __init__(self, stem: str, configuration: Mapping[str, Any]) -> None:
        """Loads the model; why it cannot be loaded is what every batch is told."""
        self._stem = stem
        self._adapter: Any = None
        self._reason = ""
        try:
            self._template = prompt_template(stem, configuration)
            self._adapter = registry.load(stem, configuration)
        except AdapterError as error:
            self._reason = str(error)

    def __call__(self, batch: Batch) -> Batch:
        """Answers a batch.

        Args:
            batch: "file": paths of prompt items.

        Returns:
            "rows": for each batch one text, a JSON list of what `table.rows` gives for its files, and
            "reason": why none can be answered; else empty.
        """
        done: list[dict[str, Any]] = []
        reason = self._reason
        if not reason:
            try:
                self._answer(batch["file"].tolist(), done)
            except AdapterError as error:  # Wrong for every item.
                reason = str(error)
        # ASCII: Arrow's texts hold no half of a surrogate pair.
        return {"rows": np.array([json.dumps(done, default=str)]), "reason": np.array([reason])}

    def _answer(self, files: list[str], done: list[dict[str, Any]]) -> None:
        def told(asked: Asked) -> None:
            try:
                found = rows(asked.file, asked.item, asked.answers, asked.failures)
                done.extend(asdict(row) for row in found)
            except Exception as error:  # A model file of the user's own may answer anything.
                reason = f"its answers cannot be shown ({error!r})"
                done.append({"item": asked.file, "prompt": None, "question": None, "error": reason})

        answer_files(inputs(files, self._stem, self._template), lambda: self._adapter, self._stem, told)
