"""GPT-2 (124 M): continues a text; no chat model, so a conversation is written out for it as a transcript."""

from adapters.hugging import HuggingAdapter as Base


class HuggingAdapter(Base):
    model_name = "openai-community/gpt2"
    defaults = {"max_new_tokens": 64, "embeddings_size": 768}
