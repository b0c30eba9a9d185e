"""DialoGPT large (774 M): small talk in the style of web forums, no chat template of its own."""

from adapters.hugging import HuggingAdapter as Base


class HuggingAdapter(Base):
    model_name = "microsoft/DialoGPT-large"
    # Should its repository have no safetensors, its pickled weights are taken.
    defaults = {
        "chat_template": "dialogpt",
        "max_new_tokens": 128,
        "embeddings_size": 1280,
        "use_safetensors": False,
    }
