"""What can go wrong, as types. Every message says what to do next."""


class AdapterError(Exception):
    """Any error this package raises on purpose."""


class ConfigurationError(AdapterError):
    """An option, key or model file that cannot be used as given."""


class LoadError(AdapterError):
    """A model that cannot be loaded: gated, missing, offline, unsafe or too large."""


class PromptError(AdapterError):
    """A prompt that cannot be asked: unreadable, empty or longer than the model's window."""


class GenerationError(AdapterError):
    """A model that failed while it was answering."""


class Cancelled(AdapterError):
    """A request that was dropped because nobody waits for its answer any more."""


class Unsupported(AdapterError):
    """Something this model or backend cannot do."""
