"""Reads how the numbers of a classification head are meant: its labels, and a CrossEncoder's settings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import PretrainedConfig

from engine.classification.logit_score import LogitScore, read_logit_score
from engine.embedding.sentence_settings import (
    activation,
    transformer_config,
    transformer_settings,
    unsupported,
)
from engine.errors import Unsupported
from engine.loading.diagnosis import explain_load_errors
from engine.loading.files import is_transformer, read_json
from engine.options import LoadOptions


@dataclass(frozen=True, slots=True)
class HeadSettings:
    """How the numbers of a head are meant.

    Attributes:
        labels: the label of each number. A head with one number has none: it gives a score.
        kind: "single" if one of the labels is right, "multiple" if any number of them may be, "score" if the
            numbers are no probabilities of labels.
        activation: turns logits into scores, (texts, numbers) → (texts, numbers).
        prompt: what is put before each text, or before the first text of a pair.
        max_length: the most tokens of a text or a pair that are read; None for the tokenizer's or model's
            limit.
        lower_case: whether texts are lower-cased.
        logit_score: how a model without a head scores; None for one with a head.
    """

    labels: tuple[str, ...]
    kind: Literal["single", "multiple", "score"]
    activation: Callable[[torch.Tensor], torch.Tensor]
    prompt: str = ""
    max_length: int | None = None
    lower_case: bool = False
    logit_score: LogitScore | None = None

    def probabilities(self, logits: torch.Tensor) -> torch.Tensor | None:
        """The probability of each label, (texts, labels), as transformers' text classification has it."""
        if self.kind == "score":
            return None
        return logits.softmax(-1) if self.kind == "single" else logits.sigmoid()


def read_settings(options: LoadOptions | None, config: PretrainedConfig) -> HeadSettings:
    """The settings of a model's configuration, and of its folder if that is a CrossEncoder's.

    Raises:
        Unsupported: a module or setting that is not supported; the text names it.
        LoadError: a file of the folder cannot be read.
    """
    saved: Mapping[str, Any] = {}
    max_length, lower_case, logit_score = None, False, None
    if options is not None:
        with explain_load_errors(options):
            modules = read_json(options, "modules.json") or ()
            logit_score = read_logit_score(options, modules, config.get_text_config().vocab_size)
            if logit_score is None:
                max_length, lower_case = _transformer(options, modules)
            else:
                max_length, lower_case = logit_score.max_length, logit_score.lower_case
            saved = read_json(options, "config_sentence_transformers.json") or {}
            if saved.get("keep_in_fp32_modules") and config.dtype not in (None, torch.float32):
                raise unsupported(options, "keep_in_fp32_modules of its settings", "classify")
    names: Any = config.id2label if logit_score is None else ["score"]
    labels = tuple(str(names[i]) for i in range(len(names)))
    one = len(labels) == 1
    named = (getattr(config, "sentence_transformers", None) or {}).get("activation_fn")
    # The last is that of folders older than sentence-transformers 4.
    earlier = getattr(config, "sbert_ce_default_activation_function", None)
    path = saved.get("activation_fn") or named or earlier
    function = (nn.Sigmoid() if one else nn.Identity()) if path is None else activation(path)
    if function is None:
        raise Unsupported(
            f"the folder's activation_fn {path!r} is no class of torch.nn, and other code is not run: change "
            "it in config_sentence_transformers.json or config.json"
        )
    multiple = config.problem_type == "multi_label_classification"
    return HeadSettings(
        labels=() if one else labels,
        kind="score" if one or config.problem_type == "regression" else "multiple" if multiple else "single",
        activation=function,
        max_length=max_length,
        lower_case=lower_case,
        prompt=(saved.get("prompts") or {}).get(saved.get("default_prompt_name")) or "",
        logit_score=logit_score,
    )


def _transformer(options: LoadOptions, modules: Sequence[Mapping[str, str]]) -> tuple[int | None, bool]:
    """The settings of a CrossEncoder's only module, the model itself; those of no CrossEncoder: no limit."""
    found: tuple[int | None, bool] = None, False
    for module in modules:
        if not is_transformer(module["type"]):
            raise unsupported(options, f"its module {module['type']}", "classify")
        path = f"{module['path']}/".lstrip("/")
        found = transformer_settings(options, transformer_config(options, path), "sequence-classification")
    return found
