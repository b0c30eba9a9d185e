"""What a sentence-transformers folder says about its vectors, read from its files."""

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
from engine.options import LoadOptions

_NAMES = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
# As older folders name them, in the order in which their vectors are put one behind the other.
_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_PLAIN = {"method": "forward", "method_output_name": "last_hidden_state"}


@dataclass(frozen=True, slots=True)
class SentenceSettings:
    """How a text becomes a vector; the defaults are for a model whose folder does not say.

    Attributes:
        poolings: names of `POOLINGS`.
        include_prompt: whether a prompt's own tokens are pooled too.
        modules: what is done with the vectors then, (texts, dim) each.
        prompts: what is put before a text, by name.
        default_prompt: the prompt of texts that name none.
        max_length: the most tokens of a text that are read.
        lower_case: whether texts are read in lower case.
        dimensions: so many of a vector's first numbers are kept; None: all.
    """

    poolings: tuple[str, ...] = ("mean",)
    include_prompt: bool = True
    modules: tuple[Callable[[torch.Tensor], torch.Tensor], ...] = ()
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    max_length: int | None = None
    lower_case: bool = False
    dimensions: int | None = None


def read(options: LoadOptions) -> SentenceSettings:
    """The settings of the folder or repository that a model was loaded from.

    Raises:
        Unsupported: a module or setting that is none of the common ones; the text names it.
        LoadError: a file that cannot be read, or weights of a module that are pickled.
    """
    with explain_load_errors(options):
        modules = read_json(options, "modules.json")
        return SentenceSettings() if modules is None else _settings(options, modules)


def _settings(options: LoadOptions, found: list[dict[str, str]]) -> SentenceSettings:
    chosen: dict[str, Any] = {}
    modules: list[Callable[[torch.Tensor], torch.Tensor]] = []
    for module in found:
        package, _, kind = module["type"].rpartition(".")
        path = f"{module['path']}/".lstrip("/")
        config = read_json(options, f"{path}config.json") or {}
        if package.split(".")[0] != "sentence_transformers":
            kind = ""  # Code of somebody else's under a name that we know.
        if kind == "Transformer":
            chosen |= _transformer(options, path)
        elif kind == "Pooling":
            chosen |= _pooling(options, config)
        elif kind == "Dense":
            modules.append(_dense(options, path, config))
        elif kind == "Normalize":
            _check(options, "Normalize", config)
            modules.append(functional.normalize)
        elif kind != "Dropout":
            raise _unsupported(options, f"its module {module['type']}")
    own = read_json(options, "config_sentence_transformers.json") or {}
    return SentenceSettings(
        modules=tuple(modules),
        prompts={name: prompt or "" for name, prompt in own.get("prompts", {}).items()},
        default_prompt=own.get("default_prompt_name"),
        dimensions=own.get("truncate_dim"),
        **chosen,
    )


def _transformer(options: LoadOptions, path: str) -> dict[str, Any]:
    files = (read_json(options, f"{path}sentence_{name}_config.json") for name in _NAMES)
    config: dict[str, Any] = next(filter(None, files), {})
    inputs = config.get("modality_config", {"text": _PLAIN})
    if config.get("transformer_task", "feature-extraction") != "feature-extraction":
        raise _unsupported(options, f"transformer_task {config['transformer_task']!r}")
    if "message" in inputs:
        raise _unsupported(options, "its modality_config with texts put through a chat template (message)")
    if inputs.get("text") != _PLAIN:
        raise _unsupported(options, f"its modality_config {inputs}")
    for key in ("config_args", "config_kwargs", "processing_kwargs", "query_expansion"):
        if config.get(key):
            raise _unsupported(options, f"{key} in its transformer's settings")
    return {"max_length": config.get("max_seq_length"), "lower_case": config.get("do_lower_case", False)}


def _pooling(options: LoadOptions, config: Mapping[str, Any]) -> dict[str, Any]:
    flagged = [mode for flag, mode in _FLAGS.items() if config.get(flag)]
    modes = config.get("pooling_mode") or flagged or "mean"
    poolings = (modes,) if isinstance(modes, str) else tuple(modes)
    for mode in poolings:
        if mode not in POOLINGS:
            raise _unsupported(options, f"pooling_mode {mode!r}")
    return {"poolings": poolings, "include_prompt": config.get("include_prompt", True)}


def _dense(options: LoadOptions, path: str, config: Mapping[str, Any]) -> torch.nn.Module:
    _check(options, "Dense", config)
    if config.get("use_residual"):
        raise _unsupported(options, "use_residual of its Dense module")
    package, _, name = config.get("activation_function", "torch.nn.Tanh").rpartition(".")
    activation = getattr(torch.nn, name, None)
    if not package.startswith("torch.nn") or not isinstance(activation, type):
        raise _unsupported(
            options, f"activation_function {config['activation_function']!r} of its Dense module"
        )
    if file := find_file(options, f"{path}model.safetensors"):
        weights = safetensors.torch.load_file(file)
    elif options.use_safetensors:
        raise LoadError(
            f"{options.model_name} has no {path}model.safetensors - Pickled weights can run code: "
            "set use_safetensors to false if you trust them"
        )
    else:
        file = find_file(options, f"{path}pytorch_model.bin")
        weights = torch.load(str(file), map_location="cpu", weights_only=True)
    linear = torch.nn.Linear(config["in_features"], config["out_features"], config.get("bias", True))
    linear.load_state_dict({name.removeprefix("linear."): weight for name, weight in weights.items()})
    return torch.nn.Sequential(linear, activation()).eval()


def _check(options: LoadOptions, kind: str, config: Mapping[str, Any]) -> None:
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, "sentence_embedding"):
            raise _unsupported(options, f"{key} {config[key]!r} of its {kind} module")


def _unsupported(options: LoadOptions, what: str) -> Unsupported:
    return Unsupported(f"{options.model_name} cannot embed: {what} is not supported here")
