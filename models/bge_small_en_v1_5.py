"""BGE small (33 M): embeddings of English texts, up to 512 tokens, for search: queries find passages."""

from adapters.hugging import HuggingAdapter as Base


class HuggingAdapter(Base):
    model_name = "BAAI/bge-small-en-v1.5"
    task = "embed"
    defaults = {
        "query_prefix": "Represent this sentence for searching relevant passages: ",
        "embeddings_size": 384,
        "upload_features": True,
    }
