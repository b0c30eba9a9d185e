"""Every option there is, what it means, and which values it may have."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Options(BaseModel):
    """Frozen; unknown keys are refused; values are checked once, here."""

    # A revision of digits arrives as a number where a command line reads its values as JSON.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)


class AdapterOptions(Options):
    """What answers, and by which names it is asked."""

    backend: Literal["local", "endpoint"] = Field(
        "local", description="local: transformers on this machine; endpoint: a server, see `base_url`."
    )
    model_deploys: tuple[str, ...] = Field(
        (), description="Public names of this model besides its own, in capitals or not."
    )
    resume: bool = Field(False, description="On the platform: only prompts without an answer are asked.")
    stream: bool = Field(False, description="On the platform: an annotation grows while its answer does.")
    stream_interval: float = Field(
        0.5, ge=0, description="Seconds between two updates of an answer that grows."
    )
    inject_context_to_user: bool = Field(
        False, description="Texts of a search stand behind the question, not in a message before it."
    )
    add_metadata: tuple[str, ...] = Field(
        (), description="Metadata fields of a search's items that precede their texts, as paths with dots."
    )
    max_context_tokens: int = Field(
        1024, ge=0, description="Tokens of a search's texts; never more than a quarter of the window."
    )
    allowed_hosts: tuple[str, ...] = Field(
        (), description="Hosts that link items of a search may lead to, by https."
    )


class EndpointOptions(Options):
    """Which server answers, where `backend` is endpoint, and how it is asked."""

    model_name: str | None = Field(None, description="The model's name at the server.")
    base_url: str | None = Field(
        None, description="The server; HUGGINGFACE_API_BASE, else the hub's router, by default."
    )
    app_id: str | None = Field(None, description="A Dataloop app whose route is the server.")
    provider: str | None = Field(None, description="An inference provider of the hub.")
    api: Literal["auto", "openai", "tgi"] = Field(
        "auto", description="The server's routes: OpenAI's, or TGI's own; auto: what it has."
    )
    max_concurrent: int = Field(16, ge=1, description="Requests that a server answers at a time.")
    timeout: float = Field(120, gt=0, description="Seconds that a server may take for an answer.")
    retries: int = Field(4, ge=0, description="How often a request is sent again that a server puts off.")


class LoadOptions(Options):
    """Which weights, and how they are put into memory."""

    model_name: str = Field(min_length=1, description="Hub id or local folder of the model.")
    local_path: str | None = Field(
        None, description="Local folder that holds the weights; `model_name` only names them then."
    )
    tokenizer: str | None = Field(None, description="Hub id or local folder of another tokenizer.")
    is_causal_lm: bool | None = Field(
        None, description="False: an encoder-decoder model; None: as the model's configuration says."
    )
    revision: str | None = Field(None, description="Branch, tag or commit of the hub repository.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="auto: the checkpoint's own. A CPU that is no faster in it computes in float32.",
    )
    device: str = Field("auto", description="auto (a GPU where there is one), cpu, cuda, cuda:1, mps.")
    device_map: str | dict[str, int | str] | None = Field(
        None, description="Accelerate's placement over several devices; replaces `device`."
    )
    max_memory: dict[int | str, int | str] | None = Field(
        None, description='Memory per device for `device_map`, {0: "20GiB", "cpu": "60GiB"}.'
    )
    offload_folder: str | None = Field(None, description="Where `device_map` puts weights on the disk.")
    attn_implementation: str | None = Field(None, description="eager, sdpa, flash_attention_2, …")
    use_flash_attention: bool | None = Field(None, description="True: `attn_implementation` for short.")
    use_quantization: bool | None = Field(
        None, description="True: 4 bits where neither is chosen; False: neither, whatever else is set."
    )
    load_in_8bit: bool = Field(False, description="Weights in 8 bits, by bitsandbytes.")
    load_in_4bit: bool = Field(False, description="Weights in 4 bits, by bitsandbytes.")
    llm_int8_threshold: float | None = Field(
        None, ge=0, description="Activations beyond it are computed in 16 bits (8-bit weights)."
    )
    llm_int8_skip_modules: tuple[str, ...] | None = Field(
        None, description="Layers that keep their precision."
    )
    llm_int8_enable_fp32_cpu_offload: bool | None = Field(
        None, description="Layers that `device_map` puts on the CPU stay in float32."
    )
    llm_int8_has_fp16_weight: bool | None = Field(
        None, description="8-bit weights that are kept in 16 bits, for training."
    )
    bnb_4bit_compute_dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="What 4-bit weights are multiplied in; `dtype` by default. A CPU may take bfloat16."
    )
    bnb_4bit_quant_type: Literal["fp4", "nf4"] | None = Field(None, description="The kind of 4-bit number.")
    bnb_4bit_use_double_quant: bool | None = Field(
        None, description="The scales of 4-bit weights in 8 bits, too."
    )
    use_safetensors: bool = Field(True, description="False also accepts pickled weights, which can run code.")
    trust_remote_code: bool = Field(False, description="True runs the Python code of the hub repository.")

    @model_validator(mode="after")
    def _memory_is_for_a_map(self) -> Self:
        if self.max_memory and self.device_map is None:
            raise ValueError('max_memory is for device_map: set device_map to "auto" with it')
        return self

    @field_validator("max_memory", mode="before")
    @classmethod
    def _json_keys_are_text(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {int(key) if str(key).isdecimal() else key: limit for key, limit in value.items()}


class GenerationOptions(Options):
    """How one conversation is asked and answered."""

    system_prompt: str | None = Field(None, description="Put before conversations that have none.")
    chat_template: str | None = Field(
        None,
        description="A name of engine/prompting/templates.py or a Jinja template, for the tokenizer's own.",
    )
    overflow: Literal["drop_oldest", "error"] = Field(
        "drop_oldest", description="What happens to a conversation longer than the model's window."
    )
    max_new_tokens: int = Field(
        256,
        ge=1,
        description="Tokens an answer may have; never more than the window leaves.",
    )
    do_sample: bool | None = Field(
        None, description="None: sampled when a temperature above 0, top_p, top_k or min_p is set."
    )
    temperature: float | None = Field(None, ge=0, le=100, description="0 is greedy.")
    top_p: float | None = Field(
        None, gt=0, le=1, description="Sample from the likeliest tokens of this mass."
    )
    top_k: int | None = Field(None, ge=1, description="Sample from so many of the likeliest tokens.")
    min_p: float | None = Field(
        None, ge=0, le=1, description="Sample from tokens at least so likely, relative to the likeliest."
    )
    repetition_penalty: float | None = Field(
        None, gt=0, description="Above 1 makes tokens already there less likely; the checkpoint's by default."
    )
    frequency_penalty: float = Field(
        0, ge=-2, le=2, description="Taken from a token's logit for each time the answer has it already."
    )
    presence_penalty: float = Field(
        0, ge=-2, le=2, description="Taken from a token's logit once the answer has it."
    )
    seed: int | None = Field(None, ge=0, lt=2**63, description="The same seed gives the same sampled answer.")
    return_full_text: Literal[False] = Field(
        False, description="Only false: an answer never repeats its prompt."
    )
    stop: tuple[str, ...] = Field((), description="Texts that end the answer; not part of it.")
    logprobs: bool = Field(False, description="An answer's tokens as text, with their log-probabilities.")
    top_logprobs: int = Field(
        0, ge=0, le=20, description="So many of the likeliest tokens are noted at each place of an answer."
    )
    confidence: str = Field(
        "mean_logprob", description="mean_logprob, or another method of engine/confidence.py."
    )

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_is_a_list(cls, value: Any) -> Any:
        return value if isinstance(value, list | tuple) else (value,)

    @field_validator("stop")
    @classmethod
    def _stops_are_not_empty(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "" in value:
            raise ValueError("an empty stop string would end every answer at once")
        return value

    @field_validator("confidence")
    @classmethod
    def _known_method(cls, value: str) -> str:
        from engine.confidence import METHODS

        if value not in METHODS:
            raise ValueError(f"no such method; there are {', '.join(METHODS)}")
        return value

    @model_validator(mode="after")
    def _sampling_needs_a_temperature(self) -> Self:
        if self.do_sample and self.temperature == 0:
            raise ValueError(
                "do_sample is true but temperature is 0 (greedy): raise it or leave do_sample out"
            )
        if self.temperature and self.temperature < 1e-3:
            raise ValueError("temperature is 0 (greedy) or at least 0.001: below, logits overflow")
        return self

    @property
    def sampled(self) -> bool:
        """Whether tokens are drawn at random rather than the likeliest taken."""
        if self.do_sample is not None:
            return self.do_sample
        if self.temperature is not None:
            return self.temperature > 0
        return any(value is not None for value in (self.top_p, self.top_k, self.min_p))


class EmbeddingOptions(Options):
    """How a text becomes a vector."""

    pooling: Literal[
        "auto", "cls", "lasttoken", "max", "mean", "mean_sqrt_len_tokens", "sum", "weightedmean"
    ] = Field(
        default="auto",
        description="How a text's token vectors become one; auto: what the model's folder says, else mean.",
    )
    normalize: bool | None = Field(
        default=None,
        description="Whether vectors have length 1; None: what the model's folder says, else not.",
    )
    max_length: int | None = Field(
        default=None, ge=1, description="Tokens of a text that are read; never more than the model's window."
    )
    query_prefix: str | None = Field(
        default=None, description="Put before a query; None: what the model's folder says."
    )
    document_prefix: str | None = Field(
        default=None, description="Put before a document; None: what the model's folder says."
    )
