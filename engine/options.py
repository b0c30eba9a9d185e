"""All options, with their meaning, default and valid values."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Options(BaseModel):
    """Base class: frozen, validated once, unknown keys refused."""

    # A command line that parses values as JSON turns a revision of digits into a number.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)


class AdapterOptions(Options):
    """Which backend answers, and how a Dataloop model uses it."""

    backend: Literal["local", "endpoint"] = Field(
        "local",
        description="Where answers come from: `local` runs transformers on this machine, `endpoint` asks "
        "the server at `base_url`.",
    )
    model_deploys: tuple[str, ...] = Field(
        (),
        description="Public names under which this model may be called besides its own, in any letter case.",
    )
    resume: bool = Field(False, description="On the platform: answer only prompts that have no answer yet.")
    stream: bool = Field(
        False, description="On the platform: update the annotation while its answer is generated."
    )
    stream_interval: float = Field(
        0.5, ge=0, description="Seconds between two updates of a streamed annotation."
    )
    measure: Literal["exact_match", "contains", "number", "token_f1", "rouge_l", "bleu", "chrf"] = Field(
        "exact_match", description="What makes an answer right when the platform evaluates the model."
    )
    right_from: float = Field(
        0.5, gt=0, le=1, description="The least score, by `measure`, of a right answer."
    )
    inject_context_to_user: bool = Field(
        False,
        description="Append retrieved context to the user's question instead of adding a separate message.",
    )
    add_metadata: tuple[str, ...] = Field(
        (), description="Metadata fields of retrieved items to put before their texts, as dotted paths."
    )
    max_context_tokens: int = Field(
        1024,
        ge=0,
        description="The most tokens of retrieved context; never more than a quarter of the context length.",
    )
    allowed_hosts: tuple[str, ...] = Field(
        (), description="Hosts from which link items with retrieved context may be fetched, over https."
    )


class EndpointOptions(Options):
    """Which server answers if `backend` is "endpoint", and how it is called."""

    model_name: str | None = Field(None, description="The model's name on the server.")
    base_url: str | None = Field(
        None,
        description="The server's address. The default is HUGGINGFACE_API_BASE, or else the router of "
        "the Hugging Face hub.",
    )
    app_id: str | None = Field(None, description="The Dataloop app whose route is the server.")
    provider: str | None = Field(None, description="The inference provider of the hub to use.")
    api: Literal["auto", "openai", "tgi"] = Field(
        "auto",
        description="The server's routes: OpenAI's or TGI's own; `auto` uses the ones that the server has.",
    )
    max_concurrent: int = Field(
        16, ge=1, description="The most requests sent to the server at the same time."
    )
    timeout: float = Field(120, gt=0, description="Seconds to wait for an answer of the server.")
    retries: int = Field(4, ge=0, description="How many times to resend a request that fails temporarily.")


class LoadOptions(Options):
    """Which weights are loaded, and how."""

    model_name: str = Field(min_length=1, description="Hub id or local folder of the model.")
    local_path: str | None = Field(
        None, description="Local folder to load the weights from; `model_name` is then only their name."
    )
    tokenizer: str | None = Field(
        None, description="Hub id or local folder of the tokenizer, if it is not the model's own."
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
    trust_remote_code: bool = Field(False, description="Run the Python code of the hub repository.")

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
    """How a conversation is rendered, and its answer generated."""

    system_prompt: str | None = Field(None, description="System prompt for conversations that have none.")
    chat_template: str | None = Field(
        None,
        description="A template name from engine/prompting/templates.py, or a Jinja template, instead of "
        "the tokenizer's own.",
    )
    overflow: Literal["drop_oldest", "error"] = Field(
        "drop_oldest",
        description="What to do with a conversation longer than the context length: drop its oldest "
        "turns, or fail.",
    )
    max_new_tokens: int = Field(
        256,
        ge=1,
        description="The most tokens of an answer; never more than the context length leaves.",
    )
    do_sample: bool | None = Field(
        None,
        description="Whether to sample; by default only if temperature (above 0), top_p, top_k or min_p "
        "is set.",
    )
    temperature: float | None = Field(None, ge=0, le=100, description="Sampling temperature; 0 is greedy.")
    top_p: float | None = Field(
        None, gt=0, le=1, description="Sample from the most likely tokens whose probabilities add up to this."
    )
    top_k: int | None = Field(None, ge=1, description="Sample from this many most likely tokens.")
    min_p: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Sample from tokens at least this likely, relative to the most likely one.",
    )
    repetition_penalty: float | None = Field(
        None,
        gt=0,
        description="A value above 1 makes tokens that already occurred less likely; by default the "
        "checkpoint's.",
    )
    frequency_penalty: float = Field(
        0,
        ge=-2,
        le=2,
        description="Subtracted from a token's logit for each time it is in the answer already.",
    )
    presence_penalty: float = Field(
        0, ge=-2, le=2, description="Subtracted from a token's logit once it is in the answer."
    )
    seed: int | None = Field(
        None, ge=0, lt=2**63, description="Random seed; the same seed gives the same sampled answer."
    )
    return_full_text: Literal[False] = Field(
        False, description="Accepted only as false: an answer never repeats its prompt."
    )
    stop: tuple[str, ...] = Field((), description="Strings that end an answer; they are not part of it.")
    logprobs: bool = Field(False, description="Return an answer's tokens with their log-probabilities.")
    top_logprobs: int = Field(
        0,
        ge=0,
        le=20,
        description="How many of the most likely tokens to return at each position of an answer.",
    )
    confidence: str = Field(
        "min_token",
        description="How the confidence is computed, by a method of docs/confidence.md; the default is the "
        "probability of the least likely token.",
    )
    max_error: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="Write into an annotation's metadata whether to accept it, so that at most this share of "
        "what is accepted is wrong; calibration.json has the threshold.",
    )
    confidence_methods: tuple[str, ...] = Field(
        (), description="More methods to compute; their values are in an annotation's metadata."
    )
    confidence_samples: int = Field(
        8, ge=2, le=64, description="How many answers to sample for a method that compares samples."
    )
    confidence_model: str | None = Field(
        None,
        description="Hub id or folder of the model that compares samples for semantic_entropy: an NLI model "
        "(by entailment both ways) or an embedding model (by cosine similarity).",
    )
    confidence_similarity: float = Field(
        0.9,
        ge=-1,
        le=1,
        description="Cosine similarity from which on an embedding model's texts mean the same.",
    )
    labels: tuple[str, ...] = Field(
        (), description="Answer with one of these labels, chosen by scoring, as a classification."
    )
    label_prior: bool = Field(
        False,
        description="Divide each label's probability by the one that it has without the question.",
    )
    token_confidence: bool = Field(
        False, description="Write the probability of each token of an answer into its annotation's metadata."
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

    @field_validator("confidence_methods", mode="before")
    @classmethod
    def _one_method_is_a_list(cls, value: Any) -> Any:
        return value if isinstance(value, list | tuple) else (value,)

    @field_validator("confidence", "confidence_methods")
    @classmethod
    def _known_methods(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        from engine.confidence import METHODS
        from engine.confidence.calibration import CALIBRATED

        if value == CALIBRATED:
            return value
        for method in (value,) if isinstance(value, str) else value:
            if method not in METHODS:
                raise ValueError(f"no such method; there are {', '.join(METHODS)}")
        return value

    @field_validator("labels", mode="before")
    @classmethod
    def _recipes_are_not_read(cls, value: Any) -> Any:
        if value == "recipe":
            raise ValueError('the labels of a dataset\'s recipe are not read: list them, ["good", "bad"]')
        return value

    @field_validator("labels")
    @classmethod
    def _labels_differ(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(label.strip() for label in value):
            raise ValueError("a label is empty: give it a text")
        if len(set(value)) < len(value) or len(value) == 1:
            raise ValueError("give at least two labels, each once")
        return value

    @model_validator(mode="after")
    def _clusters_need_a_model(self) -> Self:
        if "semantic_entropy" in (self.confidence, *self.confidence_methods) and not self.confidence_model:
            raise ValueError(
                "semantic_entropy needs confidence_model: name an NLI model or an embedding model"
            )
        return self

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
    def evidence(self) -> frozenset[str]:
        """The fields of `engine.confidence.Evidence` that the chosen methods read."""
        from engine.confidence import needs

        return needs((self.confidence, *self.confidence_methods))

    @property
    def sampled(self) -> bool:
        """Whether tokens are sampled rather than chosen greedily."""
        if self.do_sample is not None:
            return self.do_sample
        if self.temperature is not None:
            return self.temperature > 0
        return any(value is not None for value in (self.top_p, self.top_k, self.min_p))


class EmbeddingOptions(Options):
    """How a text becomes an embedding."""

    pooling: Literal[
        "auto", "cls", "lasttoken", "max", "mean", "mean_sqrt_len_tokens", "sum", "weightedmean"
    ] = Field(
        default="auto",
        description="How the hidden states of a text's tokens are pooled; `auto`: as the model's folder "
        "says, else mean.",
    )
    normalize: bool | None = Field(
        default=None,
        description="Whether to normalize embeddings to length 1; by default as the model's folder says, "
        "else not.",
    )
    max_length: int | None = Field(
        default=None,
        ge=1,
        description="The most tokens of a text that are read; never more than the context length.",
    )
    query_prefix: str | None = Field(
        default=None, description="Text put before a query; by default what the model's folder says."
    )
    document_prefix: str | None = Field(
        default=None, description="Text put before a document; by default what the model's folder says."
    )
