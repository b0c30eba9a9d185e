"""SmolLM2 135M Instruct: the smallest of its family, for trying things out on a CPU."""

from adapters.hugging import HuggingAdapter as Base


class HuggingAdapter(Base):
    model_name = "HuggingFaceTB/SmolLM2-135M-Instruct"
    defaults = {"max_new_tokens": 256, "embeddings_size": 576}
