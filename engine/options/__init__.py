"""All options, with their meaning, default and valid values."""

from engine.options.adapter import AdapterOptions
from engine.options.base import Options
from engine.options.embedding import EmbeddingOptions
from engine.options.endpoint import EndpointOptions
from engine.options.generation import GenerationOptions
from engine.options.load import LoadOptions
from engine.options.vllm import VLLMOptions

__all__ = [
    "AdapterOptions",
    "EmbeddingOptions",
    "EndpointOptions",
    "GenerationOptions",
    "LoadOptions",
    "Options",
    "VLLMOptions",
]
