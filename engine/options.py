"""Every option there is, what it means, and how a configuration is split into them."""

import difflib
from collections.abc import Mapping
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from engine.errors import ConfigurationError

# Keys that Dataloop keeps in a model's configuration for itself or for the interface: allowed, not ours.
PLATFORM_KEYS = frozenset(
    {
        "adapter_defaults",
        "batch_size",
        "clean_annotations",
        "column",
        "data_path",
        "embeddings_size",
        "id_to_label_map",
        "include_background",
        "include_model_annotations",
        "label_to_id_map",
        "labels",
        "module_name",
        "output_path",
        "overwrite_annotations",
        "predict_embed_subset_limit",
        "predict_embed_timeout",
        "root_path",
        "upload_annotations",
        "upload_features",
        "weights_filename",
    }
)
# Other names for the same option.
ALIASES = {"max_tokens": "max_new_tokens", "torch_dtype": "dtype"}


class _Options(BaseModel):
    """Frozen; unknown keys are refused; values are checked once, here."""

    # A revision of digits arrives as a number where a command line reads its values as JSON.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, coerce_numbers_to_str=True)


class LoadOptions(_Options):
    """Which weights, and how they are put into memory."""

    model_name: str = Field(min_length=1, description="Hub id or local folder of the model.")
    revision: str | None = Field(None, description="Branch, tag or commit of the hub repository.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="auto: the checkpoint's own on a GPU and on a CPU that multiplies it, else float32.",
    )
    device: str = Field("auto", description="auto (a GPU where there is one), cpu, cuda, cuda:1, mps.")
    device_map: str | dict[str, int | str] | None = Field(
        None, description="Accelerate's placement over several devices; replaces `device`."
    )
    max_memory: dict[int | str, int | str] | None = Field(
        None, description='Memory per device for `device_map`, {0: "20GiB", "cpu": "60GiB"}.'
    )
    attn_implementation: str | None = Field(None, description="eager, sdpa, flash_attention_2, …")
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


class GenerationOptions(_Options):
    """How one conversation is asked and answered."""

    system_prompt: str | None = Field(None, description="Put before conversations that have none.")
    chat_template: str | None = Field(
        None, description="dialogpt, plain or a Jinja template, instead of the tokenizer's own."
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
    seed: int | None = Field(None, ge=0, lt=2**63, description="The same seed gives the same sampled answer.")
    stop: tuple[str, ...] = Field((), description="Texts that end the answer; not part of it.")
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


Kind = TypeVar("Kind", LoadOptions, GenerationOptions)


def split(*configurations: Mapping[str, Any]) -> tuple[LoadOptions, GenerationOptions]:
    """Configurations, later over earlier, as the two kinds of options; platform keys are passed over.

    Raises:
        ConfigurationError: an unknown key (the nearest known one is suggested), two names of one option
            with different values, or a value that cannot be; the key is named.
    """
    merged: dict[str, Any] = {}
    for configuration in configurations:
        merged |= canonical({key: value for key, value in configuration.items() if key not in PLATFORM_KEYS})
    load = {key: merged.pop(key) for key in LoadOptions.model_fields if key in merged}
    return _checked(LoadOptions, load), _checked(GenerationOptions, merged)


def override(options: GenerationOptions, values: Mapping[str, Any]) -> GenerationOptions:
    """Generation options with some of them replaced.

    Raises:
        ConfigurationError: as `split`.
    """
    return _checked(GenerationOptions, options.model_dump(exclude_unset=True) | canonical(values))


def canonical(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values under the options' own names; None counts as not given.

    Raises:
        ConfigurationError: an unknown key, or two names of one option with different values.
    """
    known = [*LoadOptions.model_fields, *GenerationOptions.model_fields, *ALIASES]
    chosen: dict[str, Any] = {}
    for key, value in values.items():
        name = ALIASES.get(key, key)
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known options: {', '.join(sorted(known))}"
            raise ConfigurationError(f"unknown option {key!r}: {hint}")
        if value is None:
            continue
        if name in chosen and chosen[name] != value:
            names = [other for other in values if ALIASES.get(other, other) == name]
            raise ConfigurationError(f"{' and '.join(map(repr, names))} are one option: give it one value")
        chosen[name] = value
    return chosen


def _checked(kind: type[Kind], values: dict[str, Any]) -> Kind:
    try:
        return kind(**values)
    except ValidationError as error:
        problems = []
        for problem in error.errors(include_url=False):
            where = f"option {'.'.join(map(str, problem['loc']))!r}: " if problem["loc"] else ""
            missing = "is needed: set it in the configuration" if problem["type"] == "missing" else None
            problems.append(where + (missing or problem["msg"].removeprefix("Value error, ")))
        raise ConfigurationError("; ".join(problems)) from None
