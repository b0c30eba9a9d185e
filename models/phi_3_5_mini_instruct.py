"""Phi-3.5 mini instruct (3.8 B): a strong chat model for one GPU, with a window of 128 k tokens."""

from adapters.hugging import HuggingAdapter as Base


class HuggingAdapter(Base):
    model_name = "microsoft/Phi-3.5-mini-instruct"
    defaults = {"max_new_tokens": 512, "embeddings_size": 3072}
