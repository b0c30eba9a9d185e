"""The way of many items: read, answered and stored at the same time, few of them on their way at once."""

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any

from adapters.items.stored import prompt_of
from adapters.platform import remote, settling, storing
from adapters.platform.reading import AnswersOf, prepare, unanswered
from adapters.platform.remote import Record, RemoteError
from adapters.platform.storing import Seen, Stored
from adapters.platform.uploads import judge
from adapters.prediction.failures import Failure

# Requests at a time, of those that read and of those that write.
CONNECTIONS = 16
# Items between the look at them and the storing of their answers.
ON_THEIR_WAY = 256
# Items that are looked at in one request, before they are read and after their answers were sent.
TOGETHER = 100
# Seconds after which a wait for room looks whether the run was given up.
PATIENCE = 0.2

Prepared = dict[str, Any]
Answers = list[dict[str, Any]]


class Flow:
    """One run over items: the next ones are read while others are answered, and their answers stored.

    Attributes:
        failures: what has no answer so far; `item` is the item's id.
    """

    def __init__(
        self,
        model_name: str,
        annotate: Callable[[Answers], list[Record]],
        ended: Callable[[str, list[Record]], object],
        resume: bool = False,
        batch_size: int = 1,
        complete: Callable[[Prepared], Prepared] = dict,
        drafts: Callable[[str], list[str]] = lambda item_id: [],
    ) -> None:
        """Starts nothing yet.

        Args:
            model_name: whose answers these are.
            annotate: makes annotations of an item's answers.
            ended: told the id of each item that has ended, and its new answers as they are stored.
            resume: whether prompts that have an answer are left alone.
            batch_size: items that are answered together.
            complete: adds to an item what its questions name.
            drafts: ids of an item's growing answers, once these grow no more.
        """
        self.failures: list[Failure] = []
        self._model_name = model_name
        self._annotate = annotate
        self._ended = ended
        self._resume = resume
        self._complete = complete
        self._drafts = drafts
        self._room = threading.Semaphore(max(ON_THEIR_WAY, 2 * batch_size))
        self._ready = SimpleQueue[tuple[Seen, Prepared | Failure | None] | None]()
        # By position among the items that were given out.
        self._open: dict[int, Seen] = {}
        self._sent: list[Stored] = []
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._error: Exception | None = None

    def run(self, items: Iterable[Any], answer: Callable[[], object]) -> None:
        """Lets `answer` answer all items: it takes them from `coming` and gives each to `done`.

        Args:
            items: entities, or what is known of items; taken as there is room for them.

        Raises:
            Exception: what `answer` or the items raise; all that was answered by then is stored.
        """
        feeder = threading.Thread(target=self._feed, args=[iter(items)], daemon=True)
        try:
            with ThreadPoolExecutor(CONNECTIONS) as self._writers:
                feeder.start()
                try:
                    answer()
                finally:
                    self._stopped.set()
                    feeder.join()
        finally:
            self._settle(self._sent)
        if self._error is not None:
            raise self._error

    def coming(self, waiting: bool) -> Iterator[Prepared | None]:
        """The items' JSON, as soon as it is there.

        Args:
            waiting: whether to wait for the next one while others are being answered; else None is given.
        """
        position = 0
        while True:
            try:
                ready = self._ready.get(block=waiting or not self._open)
            except Empty:
                yield None
                continue
            if ready is None:
                return
            seen, prepared = ready
            if isinstance(prepared, Failure):
                self._end(seen, [prepared])
            elif prepared is None:
                self._writers.submit(self._store, seen, [])
            else:
                self._open[position] = seen
                position += 1
                yield prepared

    def done(self, position: int, answers: Answers, failures: Sequence[Failure]) -> None:
        """Takes the answers to an item, by its place among those that came."""
        seen = self._open.pop(position)
        # Half a conversation would replace a whole one that an earlier run has stored under its key.
        left = {failure.key for failure in failures}
        if self._resume:
            left |= judge(seen.answers).answered
        self._fail(Failure(0, seen.id, failure.key, failure.reason) for failure in failures)
        self._writers.submit(
            self._store, seen, [answer for answer in answers if prompt_of(answer) not in left]
        )

    def _feed(self, items: Iterator[Any]) -> None:
        """Looks at items and has them read, as long as there is room for more."""
        with ThreadPoolExecutor(CONNECTIONS) as readers:
            try:
                for chunk in self._chunks(items):
                    for seen, answers in self._looked_at(chunk, readers):
                        while not self._room.acquire(timeout=PATIENCE):
                            if self._stopped.is_set():
                                return
                        readers.submit(self._read, seen, answers)
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
                self._fail([Failure(0, "the run", None, reason)])
            if not chunk:
                return
            yield chunk

    def _looked_at(
        self, chunk: Sequence[Any], readers: ThreadPoolExecutor
    ) -> Iterator[tuple[Seen, Future[AnswersOf]]]:
        """The items of a chunk, with this model's answers on them, which are asked for together."""
        datasets: dict[str, list[Any]] = defaultdict(list)
        for item in chunk:
            datasets[item.dataset_id].append(item)
        for dataset_id, items in datasets.items():
            ids = [item.id for item in items]
            answers = readers.submit(storing.answers_of, dataset_id, ids, self._model_name)
            for item in items:
                yield item if isinstance(item, Seen) else Seen.of_entity(item), answers

    def _read(self, seen: Seen, answers: Future[AnswersOf]) -> None:
        try:
            prepared: Prepared | Failure | None = prepare(seen, answers, self._model_name)
            if self._resume and isinstance(prepared, dict):
                prepared = unanswered(prepared, seen.answers, self._model_name)
            if isinstance(prepared, dict):
                prepared = self._complete(prepared)
        except Exception as error:  # Nothing that an item has in it may cost the others their answers.
            prepared = Failure(0, seen.id, None, f"it could not be read ({remote.why(error)})")
        self._ready.put((seen, prepared))

    def seen(self, position: int) -> Seen:
        """The item at a position, while it is being answered."""
        return self._open[position]

    def _store(self, seen: Seen, answers: Answers) -> None:
        """Sends an item's answers, if it has any; what is then on it is settled together with many others."""
        stored = Stored(seen)
        drafts = self._drafts(seen.id)
        try:
            if answers:
                stored = storing.store(seen, self._annotate(answers))
        except Exception as error:
            reason = f"its answers could not be stored ({remote.why(error)})"
            self._fail([Failure(0, seen.id, None, reason)])
        self._room.release()
        # Nothing may have been sent, and yet a run that was killed have left something there.
        if stored.keys or drafts or judge(seen.answers).surplus:
            self._to_settle(replace(stored, drafts=drafts))
        else:
            self._ended(seen.id, [])

    def _to_settle(self, stored: Stored) -> None:
        with self._lock:
            self._sent.append(stored)
            if len(self._sent) < TOGETHER:
                return
            full, self._sent = self._sent, []
        self._settle(full)

    def _settle(self, sent: Sequence[Stored]) -> None:
        try:
            results = settling.settle(sent, self._model_name)
        except Exception as error:
            reason = f"whether its answers are stored is not known ({remote.why(error)})"
            results = [Failure(0, stored.seen.id, None, reason) for stored in sent]
        for stored, result in zip(sent, results, strict=True):
            if isinstance(result, Failure):
                self._fail([result])
                self._ended(stored.seen.id, [])
            else:
                self._ended(stored.seen.id, result)

    def _end(self, seen: Seen, failures: Sequence[Failure]) -> None:
        """An item of which nothing is to be stored leaves."""
        self._fail(failures)
        self._room.release()
        self._ended(seen.id, [])

    def _fail(self, failures: Iterable[Failure]) -> None:
        with self._lock:
            self.failures += failures
