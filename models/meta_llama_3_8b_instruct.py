"""Llama 3 8B Instruct: gated, so accept its licence on the hub and set the token as HUGGINGFACE_TOKEN."""

from adapters.hugging import HuggingAdapter as Base


class HuggingAdapter(Base):
    model_name = "meta-llama/Meta-Llama-3-8B-Instruct"
    defaults = {"max_new_tokens": 512, "embeddings_size": 4096}
