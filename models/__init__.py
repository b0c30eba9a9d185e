"""One file a model, its name the file's. From Python: `models.load("tiny_talk")`."""

from adapters.evaluation import evaluate
from adapters.registry import find, load, names, resolve_name

__all__ = ["evaluate", "find", "load", "names", "resolve_name"]
