"""Checks that a checkpoint has all weights of the model it is loaded into: missing ones would be random."""

import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

from engine.errors import LoadError

logger = logging.getLogger(__name__)

_CLASSIFIER_ENDING = "ForSequenceClassification"
# Endings of model classes that generate no text, but share all weights except the head with one that does.
_NON_GENERATIVE_ENDINGS = (
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
    "ForNextSentencePrediction",
    "ForMaskedLM",
    "ForPreTraining",
    "RewardModel",
)
# Names of classification heads in transformers.
_CLASSIFIER_HEADS = ("score", "classifier", "classification_head", "qa_outputs")


def has_classification_head(config: PretrainedConfig) -> bool:
    """Whether the configuration names a classifier, a reranker or a reward model."""
    declared = [str(known) for known in config.architectures or ()]
    return bool(declared) and all(known.endswith(_CLASSIFIER_ENDING) for known in declared)


def check_generates_text(name: str, config: PretrainedConfig) -> None:
    """Refuses masked language models and others that may miss no weight but a language model's head.

    Raises:
        LoadError: the configuration names only such classes.
    """
    declared = [str(known) for known in config.architectures or ()]
    others = [known for known in declared if known.endswith(_NON_GENERATIVE_ENDINGS)]
    if others == declared and others and not getattr(config, "is_decoder", False):
        raise LoadError(
            f"{name} is a {others[0]} by its configuration and has no weights to generate text (an output "
            "layer, as lm_head.weight): take a …ForCausalLM or …ForConditionalGeneration"
        )


def check_complete(name: str, model: PreTrainedModel, report: Mapping[str, Any], task: str) -> None:
    """Refuses a checkpoint with weights that are missing, misshapen, or of another architecture.

    Args:
        report: the loading info of `from_pretrained(output_loading_info=True)`.
        task: "generate", "classify", or "embed", which needs no head.

    Raises:
        LoadError: names the weights.
    """
    if missing := sorted(_missing_weights(model, report["missing_keys"], task)):
        raise LoadError(
            f"{name} has no weights for {_listed(missing)}, and they would be initialized randomly: take a "
            "model whose checkpoint is complete and made for this"
        )
    if report["mismatched_keys"]:
        weights = [
            f"{key} is {_shape(found)} and not {_shape(wanted)}"
            for key, found, wanted in sorted(report["mismatched_keys"])
        ]
        raise LoadError(
            f"{name} has weights of another shape than its config.json says: {_listed(weights, '; ')}: take "
            "config.json and weights of the same model"
        )
    unexpected = sorted(report["unexpected_keys"])
    quantized = getattr(model, "is_quantized", False)
    if foreign := [] if quantized else list(_foreign_weights(model, unexpected)):
        raise LoadError(
            f"{name} has weights that its config.json leaves out ({_listed(foreign)}), and without them it "
            "is another model: take config.json and weights of the same model"
        )
    heads = [key for key in unexpected if key.split(".")[0] in _CLASSIFIER_HEADS]
    if task == "generate" and heads:
        raise LoadError(
            f"{name} is a classifier ({_listed(heads)}): name its class in config.json (architectures: "
            "…ForSequenceClassification) to score and label with it, or take a model that writes text"
        )
    if task != "embed" and unexpected:
        logger.warning("%s: weights that are not used: %s", name, _listed(unexpected))


def _missing_weights(model: PreTrainedModel, missing: Collection[str], task: str) -> Iterator[str]:
    """The missing keys that matter: not heads that embedding ignores, nor buffers that are computed."""
    buffers = dict(model.named_buffers(remove_duplicate=False))
    kept = {_layer_pattern(key) for key in model.state_dict() if key not in missing}
    modules = dict(model.named_modules())
    for key in missing:
        path = key.rpartition(".")[0]
        if task == "embed" and "pooler" in path.split("."):  # A head that embedding ignores.
            continue
        if model.is_custom_code():
            yield key
        elif key in buffers:
            # A buffer that every layer lacks and that is not constant is computed from the configuration.
            if _layer_pattern(key) in kept or len(buffers[key].unique()) == 1:
                yield key
        elif "Sinusoidal" not in type(modules.get(path)).__name__:  # Also computed.
            yield key


def _foreign_weights(model: PreTrainedModel, unexpected: Iterable[str]) -> Iterator[str]:
    """Unexpected keys that belong to more layers than the model has, or to a layer that it has."""
    prefix = f"{model.base_model_prefix}."
    known = set(_with_and_without_prefix(prefix, model.state_dict()))
    patterns = {_layer_pattern(key) for key in known}
    layers = (path for path, part in model.named_modules() if part._parameters and _is_leaf(part))
    leaves = set(_with_and_without_prefix(prefix, layers))
    # Layers for multi-token prediction follow the others.
    predicts_ahead = bool(getattr(model.config.get_text_config(), "num_nextn_predict_layers", None))
    for key in unexpected:
        parts = key.split(".")
        if (_layer_pattern(key) in patterns and not predicts_ahead) or any(
            ".".join(parts[:end]) in leaves for end in range(1, len(parts))
        ):
            yield key


def _is_leaf(module: Any) -> bool:
    return next(module.children(), None) is None


def _with_and_without_prefix(prefix: str, names: Iterable[str]) -> Iterator[str]:
    """Each name with and without the prefix: a checkpoint may be of a model with or without a head."""
    for name in names:
        yield from (name, f"{prefix}{name}", name.removeprefix(prefix))


def _layer_pattern(key: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", key)


def _listed(words: list[str], between: str = ", ") -> str:
    return between.join(words[:3]) + (f" … ({len(words)} in all)" if words[3:] else "")


def _shape(size: Iterable[int]) -> str:
    return "×".join(map(str, size)) or "a number"
