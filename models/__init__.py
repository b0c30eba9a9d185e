"""One file a model, its name the file's. From Python: `models.load("tiny_talk")`."""

from adapters.registry import find, load, names, stem

__all__ = ["find", "load", "names", "stem"]
