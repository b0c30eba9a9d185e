"""Reads the settings of a sentence-transformers folder: pooling, modules, prompts, lengths."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import safetensors.torch
import torch
from torch.nn import functional

from engine.embedding.pooling import POOLINGS
from engine.errors import LoadError, Unsupported
from engine.loading.diagnosis import explain_load_errors
from engine.loading.files import find_file, read_json
from engine.loading.untrusted import PICKLED_HINT
from engine.options import LoadOptions

_MODEL_TYPES = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
# The names in older folders, in the order in which their poolings are concatenated.
_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
# The tasks of a Transformer module that are taken: the model's output that each reads, and what it does.
TASKS = {
    "feature-extraction": ("last_hidden_state", "embed"),
    "sequence-classification": ("logits", "classify"),
    "text-generation": ("logits", "classify"),
}


@dataclass(frozen=True, slots=True)
class SentenceSettings:
    """How a text becomes an embedding; the defaults are for a folder without settings.

    Attributes:
        poolings: names in `POOLINGS`, concatenated.
        include_prompt: whether the tokens of a prompt are pooled.
        modules: functions applied in turn to the pooled embeddings, (texts, dim) → (texts, dim).
        prompts: texts put before an input text, by prompt name.
        default_prompt: name of the prompt that is used by default; None for no prompt.
        max_length: the most tokens of a text that are read; None for the tokenizer's or model's limit.
        lower_case: whether texts are lower-cased.
        dimensions: how many of the first dimensions are kept; None for all.
    """

    poolings: tuple[str, ...] = ("mean",)
    include_prompt: bool = True
    modules: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    max_length: int | None = None
    lower_case: bool = False
    dimensions: int | None = None


def read_settings(options: LoadOptions) -> SentenceSettings:
    """The settings of the folder or repository that a model was loaded from.

    Raises:
        Unsupported: a module or setting is not supported; the text names it.
        LoadError: a file cannot be read, or a module's weights are pickled.
    """
    with explain_load_errors(options):
        modules = read_json(options, "modules.json")
        return SentenceSettings() if modules is None else _settings(options, modules)


def _settings(options: LoadOptions, module_list: list[dict[str, str]]) -> SentenceSettings:
    chosen: dict[str, Any] = {}
    modules: list[Callable[[torch.Tensor], torch.Tensor]] = []
    for module in module_list:
        package, _, kind = module["type"].rpartition(".")
        path = f"{module['path']}/".lstrip("/")
        config = read_json(options, f"{path}config.json") or {}
        if package.split(".")[0] != "sentence_transformers":
            kind = ""  # Third-party code under a known name.
        if kind == "Transformer":
            found = transformer_settings(options, transformer_config(options, path))
            chosen["max_length"], chosen["lower_case"] = found
        elif kind == "Pooling":
            chosen |= _pooling(options, config)
        elif kind == "Dense":
            modules.append(_dense(options, path, config))
        elif kind == "Normalize":
            _check_input_output(options, "Normalize", config)
            modules.append(functional.normalize)
        elif kind != "Dropout":
            raise unsupported(options, f"its module {module['type']}")
    config = read_json(options, "config_sentence_transformers.json") or {}
    return SentenceSettings(
        modules=tuple(modules),
        prompts={name: prompt or "" for name, prompt in config.get("prompts", {}).items()},
        default_prompt=config.get("default_prompt_name"),
        dimensions=config.get("truncate_dim"),
        **chosen,
    )


def transformer_config(options: LoadOptions, path: str) -> dict[str, Any]:
    """The settings of a Transformer module as they are written; empty if it has none.

    Args:
        path: the module's subfolder with a slash, or "".

    Raises:
        LoadError: its file cannot be read.
    """
    files = (read_json(options, f"{path}sentence_{name}_config.json") for name in _MODEL_TYPES)
    return next(filter(None, files), {})


def transformer_settings(
    options: LoadOptions, config: Mapping[str, Any], task: str = "feature-extraction"
) -> tuple[int | None, bool]:
    """The most tokens of a text (None: no limit) and whether texts are lower-cased, of a Transformer module.

    Args:
        config: as `transformer_config` reads it.
        task: the only `transformer_task` that is taken, a key of `TASKS`.

    Raises:
        Unsupported: another task, or a setting that is not supported.
    """
    output, does = TASKS[task]
    reads_text = {"method": "forward", "method_output_name": output}
    inputs = config.get("modality_config", {"text": reads_text})
    if config and config.get("transformer_task", "feature-extraction") != task:
        raise unsupported(options, f"transformer_task {config.get('transformer_task')!r}", does)
    if "message" in inputs:
        raise unsupported(
            options, "its modality_config with texts put through a chat template (message)", does
        )
    if inputs.get("text") != reads_text:
        raise unsupported(options, f"its modality_config {inputs}", does)
    for key in ("config_args", "config_kwargs", "processing_kwargs", "query_expansion"):
        if config.get(key):
            raise unsupported(options, f"{key} in its transformer's settings", does)
    return config.get("max_seq_length"), bool(config.get("do_lower_case"))


def _pooling(options: LoadOptions, config: Mapping[str, Any]) -> dict[str, Any]:
    flagged = [mode for flag, mode in _POOLING_FLAGS.items() if config.get(flag)]
    modes = config.get("pooling_mode") or flagged or "mean"
    poolings = (modes,) if isinstance(modes, str) else tuple(modes)
    for mode in poolings:
        if mode not in POOLINGS:
            raise unsupported(options, f"pooling_mode {mode!r}")
    return {"poolings": poolings, "include_prompt": config.get("include_prompt", True)}


def _dense(options: LoadOptions, path: str, config: Mapping[str, Any]) -> torch.nn.Module:
    _check_input_output(options, "Dense", config)
    if config.get("use_residual"):
        raise unsupported(options, "use_residual of its Dense module")
    function_path = config.get("activation_function", "torch.nn.Tanh")
    function = activation(function_path)
    if function is None:
        raise unsupported(options, f"activation_function {function_path!r} of its Dense module")
    if file := find_file(options, f"{path}model.safetensors"):
        weights = safetensors.torch.load_file(file)
    elif options.use_safetensors:
        raise LoadError(f"{options.model_name} has no {path}model.safetensors - {PICKLED_HINT}")
    else:
        file = find_file(options, f"{path}pytorch_model.bin")
        weights = torch.load(str(file), map_location="cpu", weights_only=True)
    linear = torch.nn.Linear(config["in_features"], config["out_features"], config.get("bias", True))
    linear.load_state_dict({name.removeprefix("linear."): weight for name, weight in weights.items()})
    return torch.nn.Sequential(linear, function).eval()


def activation(path: str) -> torch.nn.Module | None:
    """The activation of a class of torch, "torch.nn.modules.activation.Tanh" say; None for any other."""
    package, _, name = path.rpartition(".")
    kind = getattr(torch.nn, name, None) if package.startswith("torch.nn") else None
    return kind() if isinstance(kind, type) and issubclass(kind, torch.nn.Module) else None


def _check_input_output(options: LoadOptions, kind: str, config: Mapping[str, Any]) -> None:
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise unsupported(options, f"{key} {config[key]!r} of its {kind} module")


def unsupported(options: LoadOptions, what: str, does: str = "embed") -> Unsupported:
    """The error of a sentence-transformers folder with something that is not supported."""
    return Unsupported(f"{options.model_name} cannot {does}: {what} is not supported here")
