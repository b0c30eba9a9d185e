"""Which weights are loaded, and how."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, WithJsonSchema, field_validator, model_validator

from engine.options.base import Options
from engine.options.objects import torch_name


class LoadOptions(Options):
    """Which weights are loaded, and how."""

    model_name: str = Field(min_length=1, description="Hub id or local folder of the model.")
    local_path: str | None = Field(
        None, description="Local folder to load the weights from; `model_name` is then only their name."
    )
    tokenizer: Annotated[Any, WithJsonSchema({"type": "string"})] = Field(
        None,
        description="Hub id or local folder of the tokenizer, if it is not the model's own; from Python also "
        "a tokenizer of transformers.",
    )
    is_causal_lm: bool | None = Field(
        None,
        description="False expects an encoder-decoder model, True a causal one; by default the model's "
        "configuration decides.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit of the hub repository.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="The dtype of the weights; `auto` is the checkpoint's own. A CPU that is no faster "
        "in it computes in float32.",
    )
    device: str = Field(
        "auto", description="The device to load on: `auto` (a GPU if there is one), cpu, cuda, cuda:1 or mps."
    )
    device_map: str | dict[str, int | str] | None = Field(
        None, description="How accelerate shards the model over several devices; replaces `device`."
    )
    max_memory: dict[int | str, int | str] | None = Field(
        None, description='The most memory per device with `device_map`, as {0: "20GiB", "cpu": "60GiB"}.'
    )
    offload_folder: str | None = Field(
        None, description="Folder for weights that `device_map` offloads to disk."
    )
    attn_implementation: str | None = Field(
        None, description="The attention implementation of transformers: eager, sdpa, flash_attention_2, …"
    )
    use_flash_attention: bool | None = Field(
        None, description="True selects flash_attention_2, False excludes flash attention."
    )
    quantize: Literal["int8"] | None = Field(
        None,
        description="`int8` computes with weights and activations in 8 bits on a CPU: faster than float32, "
        "and than bfloat16 for few sequences. Layers whose outputs that would change stay as they are.",
    )
    use_quantization: bool | None = Field(
        None,
        description="True quantizes to 4 bits unless 8 bits are set; False disables quantization, "
        "whatever else is set.",
    )
    load_in_8bit: bool = Field(False, description="Quantize the weights to 8 bits with bitsandbytes.")
    load_in_4bit: bool = Field(False, description="Quantize the weights to 4 bits with bitsandbytes.")
    llm_int8_threshold: float | None = Field(
        None, ge=0, description="Activations above this threshold are computed in 16 bits (8-bit weights)."
    )
    llm_int8_skip_modules: tuple[str, ...] | None = Field(None, description="Modules that are not quantized.")
    llm_int8_enable_fp32_cpu_offload: bool | None = Field(
        None, description="Keep modules that `device_map` puts on the CPU in float32."
    )
    llm_int8_has_fp16_weight: bool | None = Field(
        None, description="Keep 8-bit weights in 16 bits, as training needs it."
    )
    bnb_4bit_compute_dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None,
        description="The dtype in which 4-bit weights are multiplied; by default `dtype`. A CPU may use "
        "bfloat16 instead.",
    )
    bnb_4bit_quant_type: Literal["fp4", "nf4"] | None = Field(None, description="The 4-bit number format.")
    bnb_4bit_use_double_quant: bool | None = Field(
        None, description="Also quantize the scales of 4-bit weights."
    )
    use_safetensors: bool = Field(
        True, description="Load safetensors only; False also accepts pickled weights, which can run code."
    )
    compile: bool = Field(
        False,
        description="Compile the small operations of decoding on a CPU, by torch's compiler: a longer load "
        "for faster steps of up to 64 tokens. Needs a C++ compiler (g++).",
    )
    trust_remote_code: bool = Field(False, description="Run the Python code of the hub repository.")

    @model_validator(mode="after")
    def _memory_is_for_a_map(self) -> Self:
        if self.max_memory and self.device_map is None:
            raise ValueError('max_memory is for device_map: set device_map to "auto" with it')
        return self

    @field_validator("dtype", "device", "bnb_4bit_compute_dtype", mode="before")
    @classmethod
    def _objects_of_torch_have_names(cls, value: Any) -> Any:
        return torch_name(value)

    @field_validator("tokenizer")
    @classmethod
    def _a_tokenizer_or_its_name(cls, value: Any) -> Any:
        if value is not None and not isinstance(value, str) and not hasattr(value, "convert_ids_to_tokens"):
            raise ValueError("give a hub id, a folder, or a tokenizer of transformers")
        return value

    @field_validator("max_memory", mode="before")
    @classmethod
    def _json_keys_are_text(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {int(key) if str(key).isdecimal() else key: limit for key, limit in value.items()}
