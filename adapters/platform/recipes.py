"""The labels of a dataset's recipe."""

from collections.abc import Iterable
from typing import Any

from adapters.items.stored import Record, get_path, text_at
from adapters.platform import bodies, remote
from engine.errors import ConfigurationError

# The value of the option `labels` that stands for them.
RECIPE = "recipe"


def labels(dataset_ids: Iterable[str]) -> list[str]:
    """The labels that the recipes of some datasets have, in their order; nested ones as "parent.child".

    Raises:
        ConfigurationError: there are none, or one dataset has others than another.
        RemoteError: they could not be read.
    """
    found = {dataset_id: _of_dataset(dataset_id) for dataset_id in dict.fromkeys(dataset_ids)}
    if not found:
        return []
    first, *others = found.values()
    if any(other != first for other in others):
        raise ConfigurationError(
            "labels: recipe: the items are of datasets with different labels: answer each dataset alone"
        )
    return first


def _of_dataset(dataset_id: str) -> list[str]:
    dataset = _read(f"/datasets/{dataset_id}")
    found: list[str] = []
    for recipe_id in _ids(dataset, "metadata", "system", "recipes"):
        for ontology_id in _ids(_read(f"/recipes/{recipe_id}"), "ontologyIds"):
            roots = get_path(_read(f"/ontologies/{ontology_id}"), "roots")
            found += _tags(roots, "")
    if len(set(found)) < 2:
        name = text_at(dataset, "name") or dataset_id
        raise ConfigurationError(
            f"labels: recipe: the recipe of dataset {name!r} has {len(set(found))} labels, and two are "
            "needed: add some, or list them in labels"
        )
    return list(dict.fromkeys(found))


def _tags(roots: Any, parent: str) -> list[str]:
    found: list[str] = []
    for root in roots if isinstance(roots, list) else ():
        if tag := text_at(root, "value", "tag"):
            found += [parent + tag, *_tags(get_path(root, "children"), f"{parent}{tag}.")]
    return found


def _ids(record: Record, *path: str) -> list[str]:
    found = get_path(record, *path)
    return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []


def _read(path: str) -> Record:
    found: Record = remote.ask("GET", path, read=bodies.record)
    return found
