"""all-MiniLM-L6-v2 (23 M): embeddings of English sentences, up to 256 tokens; fast on a CPU."""

from adapters.hugging import HuggingAdapter as Base


class HuggingAdapter(Base):
    model_name = "sentence-transformers/all-MiniLM-L6-v2"
    task = "embed"
    defaults = {"embeddings_size": 384, "upload_features": True}
