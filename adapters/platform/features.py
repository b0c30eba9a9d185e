"""Stores embeddings as features of items, in the feature set of a model."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from adapters.platform import remote
from adapters.prediction.failures import Failure


def store(
    feature_set: Any, project_id: str, pairs: Sequence[tuple[Any, list[float]]], pool: ThreadPoolExecutor
) -> list[Failure]:
    """Stores embeddings in one request, or one by one if that fails; then removes the items' earlier ones.

    Args:
        feature_set: the SDK's entity.
        pairs: items, as the SDK's entities, and their embeddings.
        pool: removes the earlier ones.

    Returns:
        The items whose embedding was not stored, or whose earlier one was not removed.
    """
    if not pairs:
        return []
    try:
        feature_set.features.create(
            entity=[item for item, _ in pairs],
            value=[embedding for _, embedding in pairs],
            feature_set_id=feature_set.id,
            project_id=project_id,
        )
    except Exception as error:
        if len(pairs) > 1:
            return [failure for pair in pairs for failure in store(feature_set, project_id, [pair], pool)]
        return [_failed(pairs[0][0], "its embedding could not be stored", error)]
    items = {item.id: item for item, _ in pairs}.values()
    removed = pool.map(lambda item: _keep_newest(feature_set.id, item), items)
    return [failure for failure in removed if failure]


def _keep_newest(feature_set_id: str, item: Any) -> Failure | None:
    """Removes the embeddings that earlier runs have stored for an item in this feature set."""
    try:
        stored = [one for one in item.features.list().all() if one.feature_set_id == feature_set_id]
        for feature in sorted(stored, key=lambda one: (one.created_at, one.id))[:-1]:
            feature.delete()
    except Exception as error:
        return _failed(item, "its embedding is stored, but an earlier one could not be removed", error)
    return None


def _failed(item: Any, what: str, error: Exception) -> Failure:
    return Failure(item.id, None, f"{what} ({remote.describe_error(error)})")
