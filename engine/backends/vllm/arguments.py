"""Options → the arguments of `vllm serve`."""

from collections.abc import Collection
from typing import Any

import torch

from engine.errors import ConfigurationError
from engine.loading.files import folder_or_hub_id
from engine.options import LoadOptions, VLLMOptions

# What vLLM has of the options of loading, besides those that `describe` reads.
_LOAD_OPTIONS = {
    "dtype",
    "is_causal_lm",
    "local_path",
    "model_name",
    "revision",
    "tokenizer",
    "trust_remote_code",
    "use_safetensors",
}
# The name by which the model is asked.
SERVED_NAME = "model"


def arguments(load: LoadOptions, vllm: VLLMOptions, task: str, dtype: Any) -> list[str]:
    """The arguments of `vllm serve`, the model first; without the port.

    Args:
        dtype: the checkpoint's own.

    Raises:
        ConfigurationError: an option of loading that vLLM does not have.
    """
    _check(load.model_fields_set - _LOAD_OPTIONS)
    named: dict[str, object] = {
        "host": "127.0.0.1",
        "served-model-name": SERVED_NAME,
        # Its `auto` computes a float32 checkpoint in half precision.
        "dtype": "float32" if load.dtype == "auto" and dtype in (None, torch.float32) else load.dtype,
        # A local folder has no revisions; the option is about `model_name`.
        "revision": None if load.local_path else load.revision,
        "tokenizer": load.tokenizer,
        "load-format": "safetensors" if load.use_safetensors else None,
        "quantization": vllm.quantization,
        "max-model-len": vllm.max_model_len,
        "tensor-parallel-size": vllm.tensor_parallel_size,
        "pipeline-parallel-size": vllm.pipeline_parallel_size,
        "distributed-executor-backend": vllm.distributed_executor_backend,
        "gpu-memory-utilization": vllm.gpu_memory_utilization,
        # As with local weights: greedy unless sampling is asked for, whatever the checkpoint's settings.
        "generation-config": "vllm",
        "logprobs-mode": "raw_logprobs",
        "runner": "pooling" if task == "embed" else "generate",
    }
    words = [folder_or_hub_id(load)]
    for name, value in named.items():
        words += [] if value is None else [f"--{name}", str(value)]
    words += ["--trust-remote-code"] if load.trust_remote_code else []
    return [*words, "--enable-prompt-tokens-details", *vllm.vllm_args]


def _check(unknown: Collection[str]) -> None:
    if unknown:
        names = " and ".join(sorted(unknown))
        raise ConfigurationError(
            f"{names} is for backend: local: vLLM has quantization for smaller weights, and chooses devices "
            "and attention itself; vllm_args takes its own arguments"
        )
