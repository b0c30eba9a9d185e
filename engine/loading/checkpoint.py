"""Whether a checkpoint is that of the model it was loaded into; what is missing would be random numbers."""

import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from transformers import PretrainedConfig, PreTrainedModel

from engine.errors import LoadError

logger = logging.getLogger(__name__)

# How names of classes end that write no text, but share all weights except the head with one that does.
_OTHER_HEADS = (
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForQuestionAnswering",
    "ForMultipleChoice",
    "ForNextSentencePrediction",
    "ForMaskedLM",
    "ForPreTraining",
    "RewardModel",
)
# What transformers calls the head of a classifier; there is another in the place of an output layer.
_CLASSIFIERS = ("score", "classifier", "classification_head", "qa_outputs")


def require_writer(name: str, config: PretrainedConfig) -> None:
    """Refuses a classifier, a reward model or a masked language model, whose weights may all be there.

    Raises:
        LoadError: it names the class that the configuration gives.
    """
    declared = [str(known) for known in config.architectures or ()]
    others = [known for known in declared if known.endswith(_OTHER_HEADS)]
    if others == declared and others and not getattr(config, "is_decoder", False):
        raise LoadError(
            f"{name} is a {others[0]} by its configuration and has no weights to go on with a text (an "
            "output layer, as lm_head.weight): take a …ForCausalLM or …ForConditionalGeneration"
        )


def require_whole(name: str, model: PreTrainedModel, report: Mapping[str, Any], task: str) -> None:
    """Refuses weights that are missing, of another shape, or those of another architecture.

    Args:
        report: what `from_pretrained` says with `output_loading_info`.

    Raises:
        LoadError: it names the weights.
    """
    if lost := sorted(_needed(model, report["missing_keys"], task)):
        raise LoadError(
            f"{name} has no weights for {_listed(lost)}, and random ones would answer: take a model whose "
            "checkpoint is complete and made for this"
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
    if strange := list(_of_another(model, unexpected)) if not getattr(model, "is_quantized", False) else []:
        raise LoadError(
            f"{name} has weights that its config.json leaves out ({_listed(strange)}), and without them it "
            "is another model: take config.json and weights of the same model"
        )
    if task == "generate":
        if heads := [key for key in unexpected if key.split(".")[0] in _CLASSIFIERS]:
            raise LoadError(f"{name} is a classifier ({_listed(heads)}): take a model that writes text")
        if unexpected:
            logger.warning("%s: weights that are not used: %s", name, _listed(unexpected))


def _needed(model: PreTrainedModel, missing: Collection[str], task: str) -> Iterator[str]:
    buffers = dict(model.named_buffers(remove_duplicate=False))
    kept = {_pattern(key) for key in model.state_dict() if key not in missing}
    modules = dict(model.named_modules())
    for key in missing:
        path = key.rpartition(".")[0]
        if task == "embed" and "pooler" in path.split("."):  # A head that embedding does not use.
            continue
        if model.is_custom_code():
            yield key
        elif key in buffers:
            # One that all layers lack and that holds more than zeros follows from the configuration.
            if _pattern(key) in kept or len(buffers[key].unique()) == 1:
                yield key
        elif "Sinusoidal" not in type(modules.get(path)).__name__:  # These do, too.
            yield key


def _of_another(model: PreTrainedModel, unexpected: Iterable[str]) -> Iterator[str]:
    """What belongs to a layer beyond those that there are, or is one more weight of a layer that there is."""
    prefix = f"{model.base_model_prefix}."
    known = set(_either(prefix, model.state_dict()))
    patterns = {_pattern(key) for key in known}
    leaves = set(
        _either(prefix, (path for path, part in model.named_modules() if part._parameters and _is_leaf(part)))
    )
    # Layers that guess further tokens are behind the others.
    guesses = bool(getattr(model.config.get_text_config(), "num_nextn_predict_layers", None))
    for key in unexpected:
        parts = key.split(".")
        if (_pattern(key) in patterns and not guesses) or any(
            ".".join(parts[:end]) in leaves for end in range(1, len(parts))
        ):
            yield key


def _is_leaf(module: Any) -> bool:
    return next(module.children(), None) is None


def _either(prefix: str, names: Iterable[str]) -> Iterator[str]:
    """Names with a prefix and without it: a checkpoint may be of a model with its head or without."""
    for name in names:
        yield from (name, f"{prefix}{name}", name.removeprefix(prefix))


def _pattern(key: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", key)


def _listed(words: list[str], between: str = ", ") -> str:
    return between.join(words[:3]) + (f" … ({len(words)} in all)" if words[3:] else "")


def _shape(size: Iterable[int]) -> str:
    return "×".join(map(str, size)) or "a number"
