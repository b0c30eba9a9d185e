"""Reads JSON that others have written, of any shape. Pure.

Anyone may write items, annotations and metadata on the platform, so they may have any shape. A value that is
missing or of an unexpected type is read as None.
"""

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

# A JSON object of the platform: an item or an annotation.
Record = dict[str, Any]
Answer = TypeVar("Answer")


def get_path(value: Any, *path: str) -> Any:
    """The value at a path of keys in JSON; None if there is none."""
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def text_at(value: Any, *path: str) -> str | None:
    """The text at a path of keys in JSON; None if there is none, or it is no text."""
    found = get_path(value, *path)
    return found if isinstance(found, str) else None


def size_of(item: Any) -> int:
    """An item's size in bytes by its metadata; 0 if unknown."""
    size = get_path(item, "metadata", "system", "size")
    return int(size) if isinstance(size, (int, float)) and 0 < size < 2**63 else 0


def is_link(item: Any) -> bool:
    """Whether an item is a link item: its content is at another host or in a file."""
    shebang = get_path(item, "metadata", "system", "shebang")
    return get_path(shebang, "dltype") == "link" or get_path(shebang, "linkInfo") is not None


def is_from_model(annotation: Any, model_name: str) -> bool:
    """Whether an annotation was made by the model of this name."""
    return any(
        get_path(annotation, "metadata", by, "model", "name") == model_name for by in ("user", "system")
    )


def prompt_of(annotation: Any) -> str | None:
    """The key of the prompt that an annotation answers; None if it names none."""
    return text_at(annotation, "metadata", "system", "promptId")


def answer_of(annotation: Any) -> str | None:
    """The answer that an annotation is: a text, or the label of a classification; None if it is neither."""
    field = {"text": "coordinates", "class": "label"}.get(text_at(annotation, "type") or "")
    return text_at(annotation, field) if field else None


def rank_of(annotation: Any) -> int:
    """The rank of an answer, from 1, among a model's answers to the same turn; 1 where it is the only one."""
    rank = get_path(annotation, "metadata", "user", "provenance", "rank")
    return rank if type(rank) is int and rank > 0 else 1


def by_turn(answers: Iterable[Answer]) -> list[list[Answer]]:
    """A model's answers to one prompt, turn by turn: those of a turn begin with the one of rank 1."""
    turns: list[list[Answer]] = []
    for answer in answers:
        if rank_of(answer) == 1 or not turns:
            turns.append([])
        turns[-1].append(answer)
    return turns


def upload_tag(annotation: Any) -> Mapping[str, Any]:
    """An answer's upload tag ("id", "order", "number", "of"); empty if it has none or an invalid one."""
    tag = get_path(annotation, "metadata", "user", "upload")
    valid = isinstance(get_path(tag, "id"), str) and all(
        type(get_path(tag, key)) is int for key in ("number", "of")
    )
    return tag if valid else {}
