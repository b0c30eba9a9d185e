"""How vLLM is started, and on what it runs."""

import re
from typing import Self

from pydantic import Field, model_validator

from engine.options.base import Options

# What the backend gives itself, or must not be changed: who may connect, and what the model is called.
_OWN_ARGUMENTS = re.compile(
    r"--(model|host|port|uds|api[-_]key|served[-_]model[-_]name|root[-_]path|ssl[-_][-\w]+|config|runner|"
    r"logprobs[-_]mode)(=|$)"
)


class VLLMOptions(Options):
    """How vLLM is started if `backend` is "vllm". Options of loading apply, too, as far as vLLM has them."""

    vllm_python: str | None = Field(
        None, description="The Python interpreter that has vLLM; by default the one that runs the adapter."
    )
    quantization: str | None = Field(
        None, description="vLLM's quantization of the weights: bitsandbytes, fp8, awq, …"
    )
    max_model_len: int | None = Field(
        None, ge=1, description="The context length to keep memory for; by default the model's own."
    )
    tensor_parallel_size: int = Field(
        1, ge=1, description="GPUs that share each layer: those of one machine, best."
    )
    pipeline_parallel_size: int = Field(
        1, ge=1, description="Stages of layers, one after another: machines, best."
    )
    distributed_executor_backend: str | None = Field(
        None,
        description="What runs the parts of a model on several GPUs: `mp` on one machine, `ray` on a Ray "
        "cluster; by default vLLM chooses.",
    )
    gpu_memory_utilization: float | None = Field(
        None, gt=0, le=1, description="The share of a GPU's memory to use; by default vLLM's, 0.9."
    )
    vllm_args: tuple[str, ...] = Field(
        (), description='Further arguments of `vllm serve`, as ["--max-num-seqs", "64"].'
    )

    @model_validator(mode="after")
    def _own_arguments_are_not_given(self) -> Self:
        for word in self.vllm_args:
            if _OWN_ARGUMENTS.match(word):
                raise ValueError(
                    f"vllm_args may not have {word.partition('=')[0]}: the backend sets it itself"
                )
        return self
