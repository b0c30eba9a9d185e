"""Makes prompt items of the plain items of a dataset, in a folder of the same dataset."""

import io
import json
import posixpath
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from adapters.items.item import Snapshot
from adapters.items.plain import PromptTemplate
from adapters.items.prompt_items import as_item
from adapters.items.stored import Record
from adapters.platform import remote
from adapters.platform.progress import RunProgress
from adapters.platform.reading import MAX_BYTES
from adapters.prediction.failures import Failure, Unfinished
from engine.errors import PromptError
from engine.types import Message

FOLDER = "/prompt_items"
WORKERS = 16


class CreationError(Unfinished):
    """Some items of a run have no prompt item. Those of all others are there."""

    missing = "prompt item"


def create(
    dataset: Any, pages: Iterable[list[Record]], template: PromptTemplate, progress: RunProgress
) -> None:
    """Makes a prompt item of each plain item, `FOLDER` before its path and ".json" behind it.

    One that is there already is written anew. Prompt items are left alone.

    Args:
        dataset: the SDK's entity.
        pages: the items' JSON, page by page.

    Raises:
        CreationError: at the end, if some items have none.
        RemoteError: the items could not be listed.
    """
    failures: list[Failure] = []
    with ThreadPoolExecutor(WORKERS) as pool, progress:
        for page in pages:
            found = [Snapshot.of(item, dataset.id) for item in page if item.get("type") == "file"]
            ours = [item for item in found if not item.filename.startswith(f"{FOLDER}/")]
            for failure in pool.map(lambda item: _create(dataset, item, template), ours):
                failures += [failure] if failure else []
                progress.ended()
    if failures:
        raise CreationError(failures)


def _create(dataset: Any, item: Snapshot, template: PromptTemplate) -> Failure | None:
    try:
        if item.size > MAX_BYTES:
            raise PromptError(f"it has more than {MAX_BYTES >> 20} MB")
        question = template.question_of_file(remote.text_content(item.id, item.size))
        if question is not None:
            _upload(dataset, item, question)
    except PromptError as error:
        return Failure(item.id, None, str(error))
    except Exception as error:
        return Failure(item.id, None, f"no prompt item could be made ({remote.describe_error(error)})")
    return None


def _upload(dataset: Any, item: Snapshot, question: str) -> None:
    made = as_item({"1": Message("user", (question,))}, [])
    del made["annotations"]
    folder, name = posixpath.split(item.filename)
    dataset.items.upload(
        local_path=io.BytesIO(json.dumps(made, ensure_ascii=False).encode("utf-8", "replace")),
        remote_path=FOLDER + folder,
        remote_name=f"{name}.json",
        item_metadata={"user": {"source": {"item_id": item.id}}},
        overwrite=True,
        raise_on_error=True,
    )
