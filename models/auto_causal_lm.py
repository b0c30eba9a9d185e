"""Any language model of the hub: name it as `model_name` in the configuration."""

from adapters.hugging import HuggingAdapter as Base


class HuggingAdapter(Base):
    defaults = {"max_new_tokens": 256}
