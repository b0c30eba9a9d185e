"""Which backend answers, and how a Dataloop model uses it."""

from typing import Literal

from pydantic import Field, field_validator

from engine.options.base import Options


class AdapterOptions(Options):
    """Which backend answers, and how a Dataloop model uses it."""

    backend: Literal["local", "vllm", "endpoint"] = Field(
        "local",
        description="Where answers come from: `local` runs transformers on this machine, `vllm` starts vLLM "
        "here, `endpoint` asks the server at `base_url`.",
    )
    cache: str | None = Field(
        None,
        description="Folder in which answers are kept from run to run, for the same weights, prompt and "
        "options.",
    )
    model_deploys: tuple[str, ...] = Field(
        (),
        description="Public names under which this model may be called besides its own, in any letter case.",
    )
    prompt_template: str | None = Field(
        None,
        description="Makes a question of what is not a prompt item: of a text, `{text}`, and of a JSON "
        "object or a row of a table by its names; `{labels}` are the labels, `{{` is a brace.",
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
    hyde_model_name: str | None = Field(
        None,
        description="HyDE on the platform: the model whose answer to a prompt item is embedded instead of "
        "its question, where the item's metadata has `prompt.is_hyde: true`.",
    )
    allowed_hosts: tuple[str, ...] = Field(
        (), description="Hosts from which link items with retrieved context may be fetched, over https."
    )

    @field_validator("prompt_template")
    @classmethod
    def _a_template_has_a_field(cls, value: str | None) -> str | None:
        from engine.prompting.fields import names

        if value is not None and not set(names(value)) - {"labels"}:
            raise ValueError("it has no field of an item: write {text}, or the name of a column in braces")
        return value
