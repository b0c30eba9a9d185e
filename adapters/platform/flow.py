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
from adapters.items.stored import Record, prompt_of
from adapters.platform import remote, settling, storing
from adapters.platform.reading import AnswersOf, prepare
from adapters.platform.remote import RemoteError
from adapters.platform.storing import Submission
from adapters.platform.uploads import judge
from adapters.prediction.answering import OnDone
from adapters.prediction.failures import Failure

# Requests at a time, of those that read and of those that write.
CONNECTIONS = 16
# Items between the look at them and the storing of their answers.
IN_PROGRESS = 256
# Items that are looked at in one request, before they are read and after their answers were sent.
TOGETHER = 100
# Seconds after which a wait for room looks whether the run was given up.
PATIENCE = 0.2

Answers = list[dict[str, Any]]


class Stages(Protocol):
    """What a flow has its run do; called from several threads."""

    def complete(self, item: Item) -> None:
        """Fetches what an item's questions refer to."""
        ...

    def annotate(self, answers: Answers) -> list[Record]:
        """Makes annotations of an item's answers."""
        ...

    def partial_of(self, item_id: str) -> list[str]:
        """Ids of an item's partial annotations, once these grow no more."""
        ...

    def ended(self, item_id: str, stored: list[Record]) -> None:
        """Takes an item that has ended, and its new answers as they are stored."""
        ...


class Flow:
    """A pipeline over items: reading, answering and storing overlap, with a bounded number in progress.

    Attributes:
        failures: what has no answer so far; `item` is the item's id.
    """

    def __init__(self, stages: Stages, model_name: str, resume: bool = False, batch_size: int = 1) -> None:
        """Starts nothing yet.

        Args:
            model_name: whose answers these are.
            resume: whether prompts that have an answer are left alone.
            batch_size: items that are answered together.
        """
        self.failures: list[Failure] = []
        self._stages = stages
        self._model_name = model_name
        self._resume = resume
        self._room = threading.Semaphore(max(IN_PROGRESS, 2 * batch_size))
        # An item that was read; its failure, or None where nothing of it is left to ask.
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
            items: entities, or snapshots; taken as there is room for them.
            answer: takes items as they are read, and gives each with its answers to a callback.
            waiting: whether `answer` waits for the next item; if not, it gets None while there is none yet.

        Raises:
            Exception: what `answer` or the items raise; all that was answered by then is stored.
        """
        feeder = threading.Thread(target=self._feed, args=[iter(items)], daemon=True)
        try:
            with ThreadPoolExecutor(CONNECTIONS) as self._writers:
                feeder.start()
                try:
                    answer(self._coming(waiting), self._done)
                finally:
                    self._stopped.set()
                    feeder.join()
        finally:
            self._settle(self._sent)
        if self._error is not None:
            raise self._error

    def _coming(self, waiting: bool) -> Iterator[Item | None]:
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

    def _done(self, item: Item, answers: Answers, failures: Sequence[Failure]) -> None:
        self._answering -= 1
        snapshot = item.snapshot
        assert snapshot is not None
        kept = whole(answers, failures)
        if self._resume:
            answered = judge(snapshot.answers).answered
            kept = [answer for answer in kept if prompt_of(answer) not in answered]
        self._fail(Failure(snapshot.id, failure.key, failure.reason) for failure in failures)
        self._writers.submit(self._store, snapshot, kept)

    def _feed(self, items: Iterator[Any]) -> None:
        """Looks at items and has them read, as long as there is room for more."""
        with ThreadPoolExecutor(CONNECTIONS) as readers:
            try:
                for chunk in self._chunks(items):
                    for snapshot, answers in self._looked_at(chunk, readers):
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
            except RemoteError as error:  # What came before it is in the chunk.
                reason = f"the items after these could not be listed ({error}): run again with resume: true"
                self._fail([Failure("the run", None, reason)])
            if not chunk:
                return
            yield chunk

    def _looked_at(
        self, chunk: Sequence[Any], readers: ThreadPoolExecutor
    ) -> Iterator[tuple[Snapshot, Future[AnswersOf]]]:
        """The items of a chunk, with this model's answers on them, which are asked for together."""
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
            read = prepare(snapshot, answers, self._model_name)
            if self._resume and isinstance(read, Item):
                read = read.without(judge(snapshot.answers).answered)
            if isinstance(read, Item):
                self._stages.complete(read)
        except Exception as error:  # Nothing that an item has in it may cost the others their answers.
            read = Failure(snapshot.id, None, f"it could not be read ({remote.why(error)})")
        self._ready.put((snapshot, read))

    def _store(self, snapshot: Snapshot, answers: Answers) -> None:
        """Sends an item's answers, if it has any; what is then on it is settled together with many others."""
        sent = Submission(snapshot)
        partial = self._stages.partial_of(snapshot.id)
        try:
            if answers:
                sent = storing.store(snapshot, self._stages.annotate(answers))
        except Exception as error:
            reason = f"its answers could not be stored ({remote.why(error)})"
            self._fail([Failure(snapshot.id, None, reason)])
        self._room.release()
        # Nothing may have been sent, and yet a run that was killed have left something there.
        if sent.keys or partial or judge(snapshot.answers).surplus:
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
            reason = f"whether its answers are stored is not known ({remote.why(error)})"
            results = [Failure(submission.snapshot.id, None, reason) for submission in sent]
        for submission, result in zip(sent, results, strict=True):
            if isinstance(result, Failure):
                self._fail([result])
            self._stages.ended(submission.snapshot.id, [] if isinstance(result, Failure) else result)

    def _fail(self, failures: Iterable[Failure]) -> None:
        with self._lock:
            self.failures += failures


def whole(answers: Answers, failures: Iterable[Failure]) -> Answers:
    """The answers to prompts of which no turn failed.

    Half a conversation would replace a whole one that an earlier run has stored under its key.
    """
    broken = {failure.key for failure in failures}
    return [answer for answer in answers if prompt_of(answer) not in broken]
