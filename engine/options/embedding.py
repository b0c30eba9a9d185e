"""How a text becomes an embedding."""

from typing import Literal

from pydantic import Field

from engine.options.base import Options


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
    dimensions: int | None = Field(
        default=None,
        ge=1,
        description="How many numbers of an embedding to keep, its first ones, for a model that was trained "
        "for it (Matryoshka); normalized anew where the model normalizes.",
    )
    query_prefix: str | None = Field(
        default=None, description="Text put before a query; by default what the model's folder says."
    )
    document_prefix: str | None = Field(
        default=None, description="Text put before a document; by default what the model's folder says."
    )
