"""Exceptions of this package. Every message says what to do next."""


class AdapterError(Exception):
    """Base class of the errors that this package raises on purpose."""


class ConfigurationError(AdapterError):
    """An option, configuration key or model file is invalid."""


class LoadError(AdapterError):
    """A model cannot be loaded: it is gated, missing, offline, unsafe or too large."""


class PromptError(AdapterError):
    """A prompt cannot be answered: it is unreadable, empty or longer than the context length."""


class GenerationError(AdapterError):
    """A model failed while answering."""


class Cancelled(AdapterError):
    """A request that was dropped because nobody waits for its answer any more."""


class Unsupported(AdapterError):
    """The model or backend does not support something."""
