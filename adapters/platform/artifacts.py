"""Checks a model's artifacts before the SDK downloads them: the SDK trusts their names and follows links."""

from collections.abc import Callable, Iterable
from typing import Any

from adapters.items.stored import is_link, text_at
from engine.errors import LoadError


def check(artifacts: Iterable[Any], record: Callable[[str], Any]) -> None:
    """Checks, before a download, that each artifact has a name inside the model's folder and is no link.

    Args:
        artifacts: the SDK's entities.
        record: returns an item's JSON by its id, as the platform has it now.

    Raises:
        LoadError: an artifact is a link, or its name leads out of the folder.
    """
    for artifact in artifacts:
        if artifact.type == "link":
            raise _link_error(artifact.filename)
        if artifact.type == "local":
            continue
        items = [record(artifact.id)]
        if artifact.is_fetched:  # The SDK uses the entity's own fields, not the platform's.
            items.append({"filename": artifact.filename, "metadata": artifact.metadata})
        for item in items:
            name = text_at(item, "filename") or ""
            if is_link(item):
                raise _link_error(name)
            # The SDK joins the name without its first slash to a temporary and to the model's folder.
            if ".." in name.split("/") or not name.strip("/") or name[1:2] == "/" or {*name} & {"\\", "\0"}:
                raise LoadError(
                    f"artifact {name!r} has a name that leads out of the model's folder: upload it under "
                    "another name"
                )


def _link_error(name: str) -> LoadError:
    return LoadError(
        f"artifact {name!r} is a link to another host or a file, which is not followed: upload the file "
        "itself to the model's artifacts"
    )
