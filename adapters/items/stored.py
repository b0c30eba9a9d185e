"""What others have written: JSON of any shape is read here. Pure.

Items, annotations and metadata on the platform are written by anybody, so that nothing about their shape is
certain: what is not there, or is something else than it should be, reads as None.
"""

from collections.abc import Mapping
from typing import Any

# JSON that the platform has, or is sent.
Record = dict[str, Any]


def at(value: Any, *path: str) -> Any:
    """What lies at a path of keys in JSON, or None."""
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def text_at(value: Any, *path: str) -> str | None:
    """As `at`, where it is a text."""
    found = at(value, *path)
    return found if isinstance(found, str) else None


def size_of(item: Any) -> int:
    """The bytes of an item by its metadata; 0 where these do not say."""
    size = at(item, "metadata", "system", "size")
    return int(size) if isinstance(size, (int, float)) and 0 < size < 2**63 else 0


def links(item: Any) -> bool:
    """Whether an item is a link: to another host, or a file."""
    shebang = at(item, "metadata", "system", "shebang")
    return at(shebang, "dltype") == "link" or at(shebang, "linkInfo") is not None


def is_by(annotation: Any, model_name: str) -> bool:
    """Whether an annotation is a model's."""
    return any(at(annotation, "metadata", by, "model", "name") == model_name for by in ("user", "system"))


def prompt_of(annotation: Any) -> str | None:
    """The key of the prompt that an annotation answers; None where it names none."""
    return text_at(annotation, "metadata", "system", "promptId")


def answer_of(annotation: Any) -> str | None:
    """The answer that an annotation is: a text, or the label of a classification; None if it is neither."""
    field = {"text": "coordinates", "class": "label"}.get(text_at(annotation, "type") or "")
    return text_at(annotation, field) if field else None


def mark_of(annotation: Any) -> Mapping[str, Any]:
    """The mark of an answer ("id", "number", "of"); an empty one where another program stored it."""
    mark = at(annotation, "metadata", "user", "upload")
    known = isinstance(at(mark, "id"), str) and all(type(at(mark, key)) is int for key in ("number", "of"))
    return mark if known else {}
