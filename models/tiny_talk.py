"""TinyTalk: the small model shipped here; it greets, remembers, adds and knows 40 capitals."""

from pathlib import Path

from adapters.hugging import HuggingAdapter as Base


class HuggingAdapter(Base):
    model_name = str(Path(__file__).parents[1] / "examples" / "tiny_talk" / "model")
    defaults = {"max_new_tokens": 48, "embeddings_size": 128}
    examples = ("My name is Ada.", "What is the capital of Japan?", "What is 19 + 23?")
