"""SmolLM2 1.7B Instruct: a small chat model that also answers on a CPU."""

from adapters.hugging import HuggingAdapter as Base


class HuggingAdapter(Base):
    model_name = "HuggingFaceTB/SmolLM2-1.7B-Instruct"
    defaults = {"max_new_tokens": 256, "embeddings_size": 2048}
