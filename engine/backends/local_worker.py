"""The worker of `LocalEngine`: requests → sequences of a generator → chunks."""

from collections.abc import Iterator

from engine.backends.answer_text import AnswerText
from engine.backends.conversion import Conversion
from engine.errors import AdapterError
from engine.generation.generator import Generator
from engine.generation.sequence import SequenceState
from engine.text import Deltas
from engine.types import Answer, Chunk, Request

# Requests that are queued ahead: enough to fill each free slot, and to form batches of similar lengths.
MAX_WAITING = 64


class LocalWorker:
    """The sequences of one call of `LocalEngine.stream`."""

    def __init__(self, conversion: Conversion, generator: Generator, deltas: bool) -> None:
        self._conversion = conversion
        self._generator = generator
        self._deltas = deltas
        self._running: dict[SequenceState, tuple[int, tuple[AnswerText, Deltas] | None]] = {}

    @property
    def has_room(self) -> bool:
        """Whether fewer than `MAX_WAITING` sequences wait."""
        return self._generator.num_waiting < MAX_WAITING

    @property
    def busy(self) -> bool:
        """Whether any sequence has not ended."""
        return self._generator.busy

    @property
    def num_running(self) -> int:
        """The number of sequences that are being generated."""
        return self._generator.num_running

    def add(self, index: int, request: Request, front: bool) -> list[Chunk]:
        """Queues a request; one that cannot be encoded is answered at once, by its error."""
        try:
            tokenized = self._conversion.encode(request)
            sequence = self._generator.add(tokenized, front)
        except AdapterError as error:
            return [Chunk(index, "", Answer.failed(error))]
        self._running[sequence] = index, self._conversion.streaming(tokenized) if self._deltas else None
        return []

    def drop(self, index: int) -> None:
        """Ends the sequence of a request."""
        [sequence] = [sequence for sequence, (its, _) in self._running.items() if its == index]
        del self._running[sequence]
        self._generator.drop(sequence)

    def step(self, block: bool) -> Iterator[Chunk]:
        """Runs one step of the model; gives deltas and answers."""
        for sequence in self._generator.step():
            index, streaming = self._running[sequence]
            if not sequence.running:
                del self._running[sequence]
                answer = self._conversion.decode(sequence)
                yield Chunk(index, streaming[1].rest(answer.text) if streaming else answer.text, answer)
            elif streaming:
                answer_text, deltas = streaming
                news = sequence.generated.token_ids[answer_text.taken :]
                if text := "".join(deltas.add(answer_text.add(token)) for token in news):
                    yield Chunk(index, text)
