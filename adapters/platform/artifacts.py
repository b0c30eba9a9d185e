"""Checks a model's artifacts before the SDK downloads them, which trusts their names and links."""

from collections.abc import Callable, Iterable
from typing import Any

from adapters.items.stored import links, text_at
from engine.errors import LoadError


def check(artifacts: Iterable[Any], record: Callable[[str], Any]) -> None:
    """Makes sure that no artifact is written outside its folder, and none comes from elsewhere.

    Args:
        artifacts: the SDK's entities.
        record: an item's JSON by its id, as the platform has it now.

    Raises:
        LoadError: one would be; nothing is downloaded then.
    """
    for artifact in artifacts:
        if artifact.type == "link":
            raise _followed(artifact.filename)
        if artifact.type == "local":
            continue
        items = [record(artifact.id)]
        if artifact.is_fetched:  # What it says of itself is what the SDK takes.
            items.append({"filename": artifact.filename, "metadata": artifact.metadata})
        for item in items:
            name = text_at(item, "filename") or ""
            if links(item):
                raise _followed(name)
            # What is behind the first slash becomes a path in a temporary folder, and one in the model's.
            if ".." in name.split("/") or not name.strip("/") or name[1:2] == "/" or {*name} & {"\\", "\0"}:
                raise LoadError(
                    f"artifact {name!r} has a name that leads out of the model's folder: upload it under "
                    "another"
                )


def _followed(name: str) -> LoadError:
    return LoadError(
        f"artifact {name!r} is a link to another host or a file, which is not followed: upload the file "
        "itself to the model's artifacts"
    )
