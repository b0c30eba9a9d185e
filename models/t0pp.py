"""T0++ (11 B): an encoder-decoder model for tasks told in words; 21 GiB, about 9 with load_in_4bit."""

from adapters.hugging import HuggingAdapter as Base


class HuggingAdapter(Base):
    model_name = "bigscience/T0pp"
    # Its checkpoint is float32, 42 GiB; it was trained in bfloat16, and overflows in float16.
    defaults = {"dtype": "bfloat16", "max_new_tokens": 128, "embeddings_size": 4096}
