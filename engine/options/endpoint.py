"""Which server answers, and how it is called."""

from typing import Literal

from pydantic import Field

from engine.options.base import Options


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
