"""OpenLLaMA 3B: a base model under a permissive licence; a conversation is written out as a transcript."""

from adapters.hugging import HuggingAdapter as Base


class HuggingAdapter(Base):
    model_name = "openlm-research/open_llama_3b_v2"
    # Should its repository have no safetensors, its pickled weights are taken.
    defaults = {"max_new_tokens": 128, "embeddings_size": 3200, "use_safetensors": False}
