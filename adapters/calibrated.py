"""Applies `calibration.json` to the confidences of the model that it was fitted for."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from engine.confidence.calibration import CALIBRATED, FILE, Calibration
from engine.configuration import Configuration, override
from engine.errors import ConfigurationError
from engine.options import GenerationOptions

logger = logging.getLogger(__name__)

# Options that change neither the answers nor their confidence.
_WITHOUT_EFFECT = {
    "confidence",
    "confidence_methods",
    "keep_reasoning",
    "logprobs",
    "max_error",
    "n",
    "on_length",
    "refusals",
    "seed",
    "token_confidence",
    "top_logprobs",
}
# Options of loading that do.
_OF_LOADING = {
    "bnb_4bit_compute_dtype",
    "bnb_4bit_quant_type",
    "dtype",
    "load_in_4bit",
    "load_in_8bit",
    "quantize",
    "revision",
    "use_quantization",
}


def described(configuration: Configuration, generation: GenerationOptions) -> dict[str, Any]:
    """The options that a calibration belongs to, as JSON: those that are no defaults and change answers."""
    options = generation.model_dump(mode="json", exclude=_WITHOUT_EFFECT, exclude_defaults=True)
    load = configuration.load
    if load is None:
        return options | configuration.endpoint.model_dump(include={"model_name"}, exclude_none=True)
    options |= load.model_dump(mode="json", include=_OF_LOADING, exclude_defaults=True)
    if configuration.vllm is not None and configuration.vllm.quantization:
        options["quantization"] = configuration.vllm.quantization
    # A local folder may have another path on another machine.
    local = load.local_path is not None or Path(load.model_name).exists()
    return options if local else options | {"model_name": load.model_name}


def find(local_path: str | Path | None, configuration: Configuration) -> Calibration | None:
    """The calibration among a model's artifacts, or beside its weights; None where there is none.

    Args:
        local_path: the folder of the artifacts.

    Raises:
        ConfigurationError: the file is not a calibration.
    """
    load = configuration.load
    folders = [local_path, load and load.local_path, load and load.model_name]
    for folder in folders:
        path = Path(folder or "") / FILE
        if folder and path.is_file():
            return Calibration.read(path)
    return None


def choose(
    calibration: Calibration | None, configuration: Configuration, generation: GenerationOptions, model: str
) -> tuple[GenerationOptions, Calibration | None]:
    """The options that an engine is asked with, and the calibration of its answers; None: they stay raw.

    A calibration is used where `confidence` is not set, or is "calibrated". Where the model or its options
    are others than those that it was fitted for, it is used only if asked for, and a warning says so.

    Args:
        configuration: of the model.
        generation: options of a call.
        model: the model's name.

    Raises:
        ConfigurationError: "calibrated" or `max_error` without a calibration, or one for other error rates.
    """
    asked = generation.confidence == CALIBRATED
    if not asked and "confidence" in generation.model_fields_set:
        if generation.max_error is not None:
            _warn(f"max_error is not used with confidence: {generation.confidence}; set it to {CALIBRATED}")
        return generation, None
    if calibration is None:
        if asked or generation.max_error is not None:
            name = "confidence" if asked else "max_error"
            raise ConfigurationError(
                f"option {name!r} needs {FILE}, which `python -m adapters evaluate` writes: copy it to "
                f"{_place(configuration)}"
            )
        return generation, None
    if differences := calibration.differences(model, described(configuration, generation)):
        used = "it is used all the same" if asked else "confidences are not calibrated"
        _warn(f"{FILE} was fitted for something else ({'; '.join(differences)}): {used}; evaluate again")
        if not asked:
            return generation, None
    calibration.check(generation.max_error)
    return override(generation, {"confidence": calibration.confidence}), calibration


def _place(configuration: Configuration) -> str:
    """Where `find` looks for the calibration of a model that has none."""
    load = configuration.load
    folder = load and (load.local_path or load.model_name)
    if folder and Path(folder).is_dir():
        return folder
    return "the model's artifacts, or beside its weights in a folder (docs/confidence.md shows how)"


@cache
def _warn(text: str) -> None:
    """Logs a warning once: options are looked at with every call."""
    logger.warning(text)


def calibrated(
    answer: Mapping[str, Any], calibration: Calibration, max_error: float | None
) -> dict[str, Any]:
    """An answer, as `annotations.as_dict` has it, with the calibrated confidence.

    The raw one stays among "confidences" by its method's name. With `max_error`, "accept" says whether the
    answer is accepted; one whose confidence is not known never is.
    """
    user = answer["metadata"]["user"]
    raw = user["model"]["confidence"]
    said = stated(raw, calibration, max_error)
    changed = dict(user)
    if raw is not None:
        changed["model"] = {**user["model"], "confidence": said.pop("confidence")}
        changed["confidences"] = {**user.get("confidences", {}), calibration.confidence: raw}
    return {**answer, "metadata": {**answer["metadata"], "user": changed | said}}


def stated(raw: float | None, calibration: Calibration, max_error: float | None) -> dict[str, Any]:
    """The calibrated "confidence" of a raw one, if that is known; with `max_error`, also "accept"."""
    said: dict[str, Any] = {} if raw is None else {"confidence": calibration.apply(raw)}
    if max_error is not None:
        said["accept"] = raw is not None and calibration.accepts(raw, max_error)
    return said
