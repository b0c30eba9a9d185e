"""FLAN-T5 base (250 M): an encoder-decoder model that follows short instructions, and runs on a CPU."""

from adapters.hugging import HuggingAdapter as Base


class HuggingAdapter(Base):
    model_name = "google/flan-t5-base"
    defaults = {"max_new_tokens": 128, "embeddings_size": 768}
