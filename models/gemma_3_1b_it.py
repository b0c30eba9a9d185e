"""Gemma 3 1B: a small chat model; gated, so accept its licence on the hub and set HUGGINGFACE_TOKEN."""

from adapters.hugging import HuggingAdapter as Base


class HuggingAdapter(Base):
    model_name = "google/gemma-3-1b-it"
    defaults = {"max_new_tokens": 512, "embeddings_size": 1152}
