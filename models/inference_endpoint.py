"""A model that a server answers for: any OpenAI-compatible or TGI server, an Inference Endpoint, a provider.

The configuration names the server by base_url, app_id or provider, and the model by model_name.
"""

from adapters.hugging import HuggingAdapter as Base


class HuggingAdapter(Base):
    defaults = {"backend": "endpoint"}
