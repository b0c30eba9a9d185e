"""Pipelined prediction over many items: reading, inference and storing overlap."""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from adapters.items.item import Item, Snapshot
from adapters.items.plain import PromptTemplate
from adapters.items.stored import Record, prompt_of
from adapters.platform import remote, settling, storing
from adapters.platform.errors import RemoteError
from adapters.platform.reading import AnswersOf, prepare
from adapters.platform.storing import Submission
from adapters.platform.uploads import classify
from adapters.prediction.answering import OnDone
from adapters.prediction.failures import Failure

# Threads that read items, and as many that store answers.
WORKERS = 16
# Items at most that are being read, answered or stored.
IN_PROGRESS = 256
# Items whose earlier answers are listed in one request, and that are reconciled together.
TOGETHER = 100
# Seconds between two checks whether the run was stopped, while waiting for room.
PATIENCE = 0.2

# The answers of one item, as `annotations.as_dict` has them.
ItemAnswers = list[dict[str, Any]]


class Stages(Protocol):
    """The callbacks of a flow; they are called from several threads."""

    def complete(self, item: Item) -> None:
        """Fetches the retrieved context that an item's questions refer to."""
        ...

    def to_records(self, answers: ItemAnswers) -> list[Record]:
        """Converts an item's answers into annotation records."""
        ...

    def partial_of(self, item_id: str) -> list[str]:
        """Ends the updates of an item's partial annotations and returns their ids."""
        ...

    def ended(self, item_id: str, stored: list[Record]) -> None:
        """Called once for each item at its end, with its stored new answers; empty if it has none."""
        ...


class Flow:
    """A pipeline over items: reading, answering and storing overlap, with a bounded number in progress.

    Attributes:
        failures: prompts and items without an answer so far; `item` is the item's id.
    """

    def __init__(
        self,
        stages: Stages,
        model_name: str,
        resume: bool = False,
        batch_size: int = 1,
        template: PromptTemplate | None = None,
    ) -> None:
        """Starts nothing yet.

        Args:
            stages: the callbacks.
            model_name: the model whose answers are listed and replaced.
            resume: whether prompts that have an answer are skipped.
            batch_size: items that are answered together.
            template: makes prompt items of other items; None refuses them.
        """
        self._template = template
        self.failures: list[Failure] = []
        self._stages = stages
        self._model_name = model_name
        self._resume = resume
        self._room = threading.Semaphore(max(IN_PROGRESS, 2 * batch_size))
        # Items that were read, or their failure, or None if they have no open prompt; None at the end.
        self._ready = SimpleQueue[tuple[Snapshot, Item | Failure | None] | None]()
        self._answering = 0
        self._sent: list[Submission] = []
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._error: Exception | None = None

    def run(
        self,
        items: Iterable[Any],
        answer: Callable[[Iterator[Item | None], OnDone], object],
        waiting: bool,
    ) -> None:
        """Answers all items.

        Args:
            items: the SDK's entities or snapshots; consumed when there is room for them.
            answer: consumes items as they are read, and calls the callback with each item and its answers.
            waiting: whether `answer` blocks until the next item is read; else it gets None meanwhile.

        Raises:
            Exception: any error of `answer` or of the iterator `items`, after all answers so far are stored.
        """
        feeder = threading.Thread(target=self._feed, args=[iter(items)], daemon=True)
        try:
            with ThreadPoolExecutor(WORKERS) as self._writers:
                feeder.start()
                try:
                    answer(self._read_items(waiting), self._done)
                finally:
                    self._stopped.set()
                    feeder.join()
        finally:
            self._settle(self._sent)
        if self._error is not None:
            raise self._error

    def _read_items(self, waiting: bool) -> Iterator[Item | None]:
        while True:
            try:
                ready = self._ready.get(block=waiting or not self._answering)
            except Empty:
                yield None
                continue
            if ready is None:
                return
            snapshot, read = ready
            if isinstance(read, Failure):
                self._fail([read])
                self._room.release()
                self._stages.ended(snapshot.id, [])
            elif read is None:
                self._writers.submit(self._store, snapshot, [])
            else:
                self._answering += 1
                yield read

    def _done(self, item: Item, answers: ItemAnswers, failures: Sequence[Failure]) -> None:
        self._answering -= 1
        snapshot = item.snapshot
        assert snapshot is not None
        kept = complete_answers(answers, failures)
        if self._resume:
            answered = classify(snapshot.answers).answered
            kept = [answer for answer in kept if prompt_of(answer) not in answered]
        self._fail(Failure(snapshot.id, failure.key, failure.reason) for failure in failures)
        self._writers.submit(self._store, snapshot, kept)

    def _feed(self, items: Iterator[Any]) -> None:
        """Submits items to the reading threads as long as there is room for more."""
        with ThreadPoolExecutor(WORKERS) as readers:
            try:
                for chunk in self._chunks(items):
                    for snapshot, answers in self._with_answers(chunk, readers):
                        while not self._room.acquire(timeout=PATIENCE):
                            if self._stopped.is_set():
                                return
                        readers.submit(self._read, snapshot, answers)
                    if self._stopped.is_set():
                        return
            except Exception as error:
                self._error = error
            finally:
                readers.shutdown(cancel_futures=self._stopped.is_set())
                self._ready.put(None)

    def _chunks(self, items: Iterator[Any]) -> Iterator[list[Any]]:
        while True:
            chunk: list[Any] = []
            try:
                chunk.extend(islice(items, TOGETHER))
            except RemoteError as error:  # The items before the error are in the chunk.
                reason = f"the items after these could not be listed ({error}): run again with resume: true"
                self._fail([Failure("the run", None, reason)])
            if not chunk:
                return
            yield chunk

    def _with_answers(
        self, chunk: Sequence[Any], readers: ThreadPoolExecutor
    ) -> Iterator[tuple[Snapshot, Future[AnswersOf]]]:
        """The items of a chunk with this model's answers on them, listed in one request per dataset."""
        datasets: dict[str, list[Any]] = defaultdict(list)
        for item in chunk:
            datasets[item.dataset_id].append(item)
        for dataset_id, items in datasets.items():
            ids = [item.id for item in items]
            answers = readers.submit(storing.answers_of, dataset_id, ids, self._model_name)
            for item in items:
                yield item if isinstance(item, Snapshot) else Snapshot.of_entity(item), answers

    def _read(self, snapshot: Snapshot, answers: Future[AnswersOf]) -> None:
        read: Item | Failure | None
        try:
            read = prepare(snapshot, answers, self._model_name, self._template)
            if self._resume and isinstance(read, Item):
                read = read.without(classify(snapshot.answers).answered)
            if isinstance(read, Item):
                self._stages.complete(read)
        except Exception as error:  # An item of any content must not affect other items.
            read = Failure(snapshot.id, None, f"it could not be read ({remote.describe_error(error)})")
        self._ready.put((snapshot, read))

    def _store(self, snapshot: Snapshot, answers: ItemAnswers) -> None:
        """Uploads an item's answers, if it has any, and queues the item to be reconciled."""
        sent = Submission(snapshot)
        partial = self._stages.partial_of(snapshot.id)
        try:
            if answers:
                sent = storing.store(snapshot, self._stages.to_records(answers))
        except Exception as error:
            reason = f"its answers could not be stored ({remote.describe_error(error)})"
            self._fail([Failure(snapshot.id, None, reason)])
        self._room.release()
        # Also without new answers: a killed run may have left obsolete annotations.
        if sent.keys or partial or classify(snapshot.answers).obsolete:
            self._to_settle(replace(sent, partial=partial))
        else:
            self._stages.ended(snapshot.id, [])

    def _to_settle(self, submission: Submission) -> None:
        with self._lock:
            self._sent.append(submission)
            if len(self._sent) < TOGETHER:
                return
            full, self._sent = self._sent, []
        self._settle(full)

    def _settle(self, sent: Sequence[Submission]) -> None:
        try:
            results = settling.settle(sent, self._model_name)
        except Exception as error:
            reason = f"whether its answers are stored is not known ({remote.describe_error(error)})"
            results = [Failure(submission.snapshot.id, None, reason) for submission in sent]
        for submission, result in zip(sent, results, strict=True):
            if isinstance(result, Failure):
                self._fail([result])
            self._stages.ended(submission.snapshot.id, [] if isinstance(result, Failure) else result)

    def _fail(self, failures: Iterable[Failure]) -> None:
        with self._lock:
            self.failures += failures


def complete_answers(answers: ItemAnswers, failures: Iterable[Failure]) -> ItemAnswers:
    """The answers to prompts without a failed turn.

    The others are not stored: they would replace an earlier, complete conversation under the same key.
    """
    failed = {failure.key for failure in failures}
    return [answer for answer in answers if prompt_of(answer) not in failed]
