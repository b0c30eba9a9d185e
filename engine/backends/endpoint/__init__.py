"""The backend that asks a server: OpenAI's routes, TGI's own, the hub's providers, a Dataloop app."""

from engine.backends.endpoint.engine import EndpointEngine

__all__ = ["EndpointEngine"]
