"""Weights among a model's artifacts: looked at before the SDK writes them, for it takes any name as it is."""

import posixpath
from collections.abc import Callable, Iterable
from typing import Any

from engine.errors import LoadError


def check(artifacts: Iterable[Any], filename: Callable[[str], str]) -> None:
    """Makes sure that no artifact is written outside its folder, and none comes from another host.

    Args:
        artifacts: the SDK's entities.
        filename: an item's file name by its id, as the platform has it now.

    Raises:
        LoadError: one would be; nothing is downloaded then.
    """
    for artifact in artifacts:
        if artifact.type == "link":
            raise LoadError(
                f"artifact {artifact.filename!r} is a link to another host, which is not followed: upload "
                "the file itself to the model's artifacts"
            )
        if artifact.type == "local":
            continue
        name = filename(artifact.id)
        # So the SDK lays them into the model's folder: without /artifacts/models/<model>.
        place = posixpath.relpath(name or "/", "/".join(name.split("/")[:4]) or "/")
        if place.split("/")[0] == ".." or "\\" in name:
            raise LoadError(
                f"artifact {name!r} has a name that leads out of the model's folder: upload it under another"
            )
