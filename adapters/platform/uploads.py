"""Upload tags: which of a model's answers on an item are current and which are to be removed.

Each answer carries a tag: its upload, that upload's order, its number among the answers to its prompt, and
how many those are. An upload's order is one more than the highest that its run saw on the item, so it comes
after all uploads that the run knew. Of two that did not know each other the one with the greater id comes
after. The platform's clock is not used.

An upload below a complete one is removed, and nothing else. So no run removes the highest complete upload,
whatever each run has seen of the others, nor a part of one that is still arriving and outranks its own.
"""

import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from adapters.items.stored import Record, mark_of, prompt_of


class Upload(NamedTuple):
    """An upload among those of its item; a greater one comes after."""

    order: int
    id: str


# All that other programs have stored is one upload, before any of ours.
UNMARKED = Upload(-1, "")


@dataclass(frozen=True, slots=True)
class Judged:
    """What is to be thought of a model's answers on an item.

    Attributes:
        whole: by prompt key, the answers of the last upload that has all of them, in their order.
        broken: prompts on which a later upload than that has broken off, or is still arriving.
        surplus: ids of partial annotations, of what is below a whole upload, and of copies in one.
    """

    whole: dict[str, list[Record]]
    broken: set[str]
    surplus: list[str]

    @property
    def answered(self) -> set[str]:
        """The prompts with a whole answer that no later upload was to replace."""
        return self.whole.keys() - self.broken

    @property
    def standing(self) -> list[Record]:
        """Their answers, prompt by prompt."""
        return [one for key, answers in self.whole.items() if key not in self.broken for one in answers]

    def upload_at(self, key: str) -> Upload:
        """The last whole upload to a prompt; one before any of ours where there is none."""
        answers = self.whole.get(key)
        return upload_of(answers[0]) if answers else UNMARKED


def judge(answers: Collection[Record]) -> Judged:
    """Tells what stands from what goes; two who look at the same answers say the same."""
    judged = Judged({}, set(), [])
    uploads: dict[str, dict[Upload, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for one in sorted(answers, key=lambda one: str(one["id"])):
        if mark_of(one).get("draft"):
            judged.surplus.append(one["id"])
        elif (key := prompt_of(one)) is not None:
            uploads[key][upload_of(one)].append(one)
    for key, parts in uploads.items():
        whole = max((upload for upload in parts if _is_whole(upload, parts[upload])), default=None)
        if whole is None:
            continue
        judged.whole[key] = _each_once(whole, parts[whole])
        if whole != max(parts):
            judged.broken.add(key)
        there = set(ids_of(judged.whole[key]))
        below = [one for upload in parts if upload <= whole for one in ids_of(parts[upload])]
        judged.surplus.extend(one for one in below if one not in there)
    return judged


def following(answers: Collection[Record]) -> Upload:
    """A new upload, after all of these."""
    order = 1 + max((upload_of(one).order for one in answers), default=0)
    # Of uploads that know nothing of each other the one that was sent last by its sender's clock.
    return Upload(max(order, 1), f"{time.time_ns():016x}{secrets.token_hex(8)}")


def marked(annotations: Sequence[Record], upload: Upload) -> list[Record]:
    """Annotations as those of an upload."""
    counts, numbers = Counter(map(prompt_of, annotations)), Counter[str | None]()
    found = []
    for annotation in annotations:
        key = prompt_of(annotation)
        mark = {**upload._asdict(), "number": numbers[key], "of": counts[key]}
        found.append(_with(annotation, mark))
        numbers[key] += 1
    return found


def as_partial(annotation: Record) -> Record:
    """An annotation that is no answer to anybody who looks, and goes whenever its item is settled."""
    # For readers that know no partial annotations: a part of an upload whose second part never comes.
    return _with(annotation, {"id": secrets.token_hex(16), "number": 0, "of": 2, "draft": True})


def upload_of(annotation: Record) -> Upload:
    """The upload that an answer belongs to."""
    mark = mark_of(annotation)
    order = mark.get("order")  # Without one: stored before there were orders.
    return Upload(order if type(order) is int and order > 0 else 0, mark["id"]) if mark else UNMARKED


def ids_of(annotations: Collection[Record]) -> list[str]:
    """The ids of annotations."""
    return [annotation["id"] for annotation in annotations]


def _with(annotation: Record, mark: Record) -> Record:
    metadata = annotation["metadata"]
    return {**annotation, "metadata": {**metadata, "user": {**metadata.get("user", {}), "upload": mark}}}


def _is_whole(upload: Upload, parts: Sequence[Record]) -> bool:
    """Whether each answer of an upload to a prompt is there."""
    if upload == UNMARKED:
        return True
    of: int = mark_of(parts[0])["of"]
    return 0 < of == len({number for part in parts if 0 <= (number := mark_of(part)["number"]) < of})


def _each_once(upload: Upload, parts: Sequence[Record]) -> list[Record]:
    """The answers of a whole upload to a prompt, in their order; of copies the last by id."""
    if upload == UNMARKED:  # They are in the order of their ids: nothing else is known of them.
        return list(parts)
    numbered = {mark_of(part)["number"]: part for part in parts}
    return [numbered[number] for number in sorted(numbered)]
