"""Mistral 7B Instruct v0.3: a chat model for one GPU; accept its terms if the hub asks, and set a token."""

from adapters.hugging import HuggingAdapter as Base


class HuggingAdapter(Base):
    model_name = "mistralai/Mistral-7B-Instruct-v0.3"
    defaults = {"max_new_tokens": 512, "embeddings_size": 4096}
