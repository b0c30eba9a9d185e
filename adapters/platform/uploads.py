"""Upload tags: which of a model's answers on an item are current and which are to be removed.

Each answer has an upload tag: the id of its upload, the upload's order, the answer's number among those to
its prompt, and how many those are. "Reconciling depends on stored data only" in docs/architecture.md explains
how uploads are ordered, and why no run ever removes the last complete one.
"""

import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from adapters.items.stored import Record, prompt_of, upload_tag


class Upload(NamedTuple):
    """An upload of a model's answers to one item; of two uploads the greater one is the later."""

    order: int
    id: str


# All answers without a tag, which other programs have stored, count as one upload before any of ours.
UNTAGGED = Upload(-1, "")


@dataclass(frozen=True, slots=True)
class UploadState:
    """A model's stored answers on an item, classified.

    Attributes:
        complete: by prompt key, the answers of the last complete upload, in their order.
        interrupted: prompt keys with a later upload that is incomplete: interrupted or still in progress.
        obsolete: ids of annotations to remove: partial annotations, answers of uploads before the last
            complete one, and duplicates within that one.
    """

    complete: dict[str, list[Record]]
    interrupted: set[str]
    obsolete: list[str]

    @property
    def answered(self) -> set[str]:
        """The prompt keys with a complete answer and no later, incomplete upload."""
        return self.complete.keys() - self.interrupted

    @property
    def current(self) -> list[Record]:
        """The answers to the prompts in `answered`, prompt by prompt."""
        return [one for key, found in self.complete.items() if key not in self.interrupted for one in found]

    def upload_at(self, key: str) -> Upload:
        """The last complete upload to a prompt; `UNTAGGED` if there is none."""
        answers = self.complete.get(key)
        return upload_of(answers[0]) if answers else UNTAGGED


def classify(answers: Collection[Record]) -> UploadState:
    """Sorts a model's answers on an item into complete, interrupted and obsolete ones.

    The result depends on the answers alone, not on their order or on the clock: all runs decide alike.
    """
    state = UploadState({}, set(), [])
    uploads: dict[str, dict[Upload, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for one in sorted(answers, key=lambda one: str(one["id"])):
        if upload_tag(one).get("draft"):
            state.obsolete.append(one["id"])
        elif (key := prompt_of(one)) is not None:
            uploads[key][upload_of(one)].append(one)
    for key, parts in uploads.items():
        last = max((upload for upload in parts if _is_complete(upload, parts[upload])), default=None)
        if last is None:
            continue
        state.complete[key] = _deduplicated(last, parts[last])
        if last != max(parts):
            state.interrupted.add(key)
        kept = set(ids_of(state.complete[key]))
        until_last = [one for upload in parts if upload <= last for one in ids_of(parts[upload])]
        state.obsolete.extend(one for one in until_last if one not in kept)
    return state


def next_upload(answers: Collection[Record]) -> Upload:
    """A new upload that is later than all uploads of these answers."""
    order = 1 + max((upload_of(one).order for one in answers), default=0)
    # The id begins with the sender's time: of concurrent uploads of one order the one sent last is the later.
    return Upload(max(order, 1), f"{time.time_ns():016x}{secrets.token_hex(8)}")


def tagged(annotations: Sequence[Record], upload: Upload) -> list[Record]:
    """Copies of annotations with the upload tag of `upload`, numbered per prompt."""
    counts, numbers = Counter(map(prompt_of, annotations)), Counter[str | None]()
    found = []
    for annotation in annotations:
        key = prompt_of(annotation)
        tag = {**upload._asdict(), "number": numbers[key], "of": counts[key]}
        found.append(_with_tag(annotation, tag))
        numbers[key] += 1
    return found


def as_partial(annotation: Record) -> Record:
    """A copy of an annotation that is tagged as partial: no answer, and obsolete from the start."""
    # A reader that does not know "draft" sees an upload whose second part is missing, thus no answer either.
    return _with_tag(annotation, {"id": secrets.token_hex(16), "number": 0, "of": 2, "draft": True})


def upload_of(annotation: Record) -> Upload:
    """The upload that an answer belongs to by its tag."""
    tag = upload_tag(annotation)
    order = tag.get("order")  # Tags of earlier versions have none.
    return Upload(order if type(order) is int and order > 0 else 0, tag["id"]) if tag else UNTAGGED


def ids_of(annotations: Collection[Record]) -> list[str]:
    """The ids of annotations."""
    return [annotation["id"] for annotation in annotations]


def _with_tag(annotation: Record, tag: Record) -> Record:
    metadata = annotation["metadata"]
    return {**annotation, "metadata": {**metadata, "user": {**metadata.get("user", {}), "upload": tag}}}


def _is_complete(upload: Upload, parts: Sequence[Record]) -> bool:
    """Whether all answers of an upload to a prompt are stored."""
    if upload == UNTAGGED:
        return True
    of: int = upload_tag(parts[0])["of"]
    return 0 < of == len({number for part in parts if 0 <= (number := upload_tag(part)["number"]) < of})


def _deduplicated(upload: Upload, parts: Sequence[Record]) -> list[Record]:
    """The answers of a complete upload to a prompt by their number; of duplicates the last by id."""
    if upload == UNTAGGED:  # They have no numbers, and are already sorted by id.
        return list(parts)
    numbered = {upload_tag(part)["number"]: part for part in parts}
    return [numbered[number] for number in sorted(numbered)]
