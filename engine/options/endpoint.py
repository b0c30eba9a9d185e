"""Which server answers, and how it is called."""

from typing import Literal

from pydantic import Field, field_validator

from engine.options.base import JSONObject, Options

# What a request's body has from the options and the conversation.
_OWN = frozenset(
    "chat_template_kwargs frequency_penalty inputs logit_bias logprobs max_new_tokens max_tokens "  # noqa: SIM905
    "messages min_p model parameters presence_penalty prompt repetition_penalty response_format seed "
    "stop stream stream_options suffix temperature top_k top_logprobs top_p".split()
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
    extra_body: JSONObject | None = Field(
        None, description="Further parameters of each answer's request, for what only this server has."
    )

    @field_validator("extra_body")
    @classmethod
    def _options_have_their_own_place(cls, value: JSONObject | None) -> JSONObject | None:
        if own := _OWN & (value or {}).keys():
            raise ValueError(f"{', '.join(sorted(own))} cannot be given here: use the options of the model")
        return value
