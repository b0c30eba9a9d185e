"""Generation in flight: a row that ends leaves at once, and the next one takes its place.

A step extends every live row by what it has not read yet: the token chosen last, or a part of its prompt.
Keys and values stay where they are, so that the next turn of a conversation, and rows that begin alike, are
read from where they differ.
"""

import bisect
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice

import torch
from transformers import PreTrainedModel

from engine.attention.packed import logits
from engine.errors import GenerationError
from engine.generation.kv_cache import BLOCK, Slots
from engine.generation.sampling import MAX_ROWS, Decoding, Row, choose
from engine.generation.step import Segment, Step
from engine.memory import free_memory, is_out_of_memory

logger = logging.getLogger(__name__)

# Tokens of prompts that a step reads at most: a long question does not stall the answers of the others.
PREFILL_TOKENS = 512
# A row waits for another that is reading the same beginning, where that spares it so many tokens.
WORTH_WAITING = 32
# The part of the free memory that keys and values may take.
MEMORY_SHARE = 0.8


class InFlight:
    """The rows of one run, and the model's memory of them."""

    def __init__(self, model: PreTrainedModel, eos: frozenset[int], token_bytes: int) -> None:
        """Takes a model that `engine.generation.generator.token_bytes` takes.

        Args:
            token_bytes: what the keys and values of one token take.
        """
        self.model = model
        self.eos = eos
        self.waiting: deque[Decoding] = deque()
        # By slot: the row that lives there (None: it has just ended), and the tokens held there.
        self.rows: list[Decoding | None] = []
        self.held: list[list[int]] = []
        self.slots = Slots()
        # A failure lowers both, and each row that ends doubles the limit again, up to the ceiling.
        self._limit = self._ceiling = MAX_ROWS
        self._token_bytes = token_bytes
        self._memory = int(MEMORY_SHARE * free_memory(model.device))

    @property
    def live(self) -> int:
        """How many rows are being generated."""
        return sum(row is not None for row in self.rows)

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting or self.live)

    def add(self, row: Row, soon: bool = False) -> Decoding:
        """Lets a row wait for its turn; `soon` puts it before all others."""
        decoding = Decoding(row, self.model, self.eos)
        if soon:
            self.waiting.appendleft(decoding)
        else:
            self.waiting.append(decoding)
        return decoding

    @torch.inference_mode()
    def step(self) -> list[Decoding]:
        """Runs the model once; returns the rows that have a new token or have failed."""
        try:
            self._place()
            segments = list(self._segments())
            finished = [segment for segment in segments if segment.end == len(self._row(segment).tokens)]
            results = self._run(segments, finished)
        except Exception as error:  # A model's code is its author's.
            return self._retreat(error)
        for segment in segments:
            self.held[segment.slot] = self._row(segment).tokens[: segment.end]
        chosen = [self._row(segment) for segment in finished]
        if chosen:
            choose(chosen, results)
        for segment, decoding in zip(finished, chosen, strict=True):
            if not decoding.live:
                self._leave(segment.slot)
        return chosen

    def _row(self, segment: Segment) -> Decoding:
        row = self.rows[segment.slot]
        assert row is not None
        return row

    def _run(self, segments: Sequence[Segment], finished: Sequence[Segment]) -> torch.Tensor:
        """(finished, vocabulary): the logits behind the last token of each finished segment."""
        plan = Step(self.slots, segments, self.model.device)
        behind = accumulate(len(segment.tokens) for segment in plan.segments)
        last = {segment.slot: place - 1 for segment, place in zip(plan.segments, behind, strict=True)}
        wanted = [last[segment.slot] for segment in finished] or [0]
        return logits(self.model, plan.tokens, plan.positions, plan, wanted)

    def _segments(self) -> Iterator[Segment]:
        """What each row is to read in this step: the last token of each, and prompts up to the budget."""
        pending = [
            (slot, len(self.held[slot]), decoding)
            for slot, decoding in enumerate(self.rows)
            if decoding is not None
        ]
        longer = []
        for slot, start, decoding in pending:
            if len(decoding.tokens) - start == 1:
                yield Segment(slot, start, decoding.tokens[start:])
            else:
                longer.append((slot, start, decoding))
        budget = PREFILL_TOKENS
        for slot, start, decoding in longer:
            # A rest of one token is left for the next step, where it is a single one.
            if budget > 1:
                tokens = decoding.tokens[start : start + budget]
                budget -= len(tokens)
                yield Segment(slot, start, tokens)

    def _place(self) -> None:
        """Gives waiting rows their slots, and closes the gaps that nobody takes."""
        for decoding in list(islice(self.waiting, 2 * MAX_ROWS)):
            if self.live == self._limit or (self.live and not self._fits(decoding)):
                break
            if not self._is_being_read(decoding):
                self.waiting.remove(decoding)
                self._enter(decoding)
        while None in self.rows:
            gap, last = self.rows.index(None), len(self.rows) - 1
            moved = self.rows.pop()
            if moved is not None:
                tokens = len(self.held[last])
                self.slots.copy(last, gap, tokens)
                self.slots.wipe(last, tokens)
                self.rows[gap] = moved
                self.held[gap], self.held[last] = self.held[last], []

    def _enter(self, decoding: Decoding) -> None:
        """A free slot takes the row, with what any slot already holds of its tokens."""
        free = [slot for slot, row in enumerate(self.rows) if row is None] or [len(self.rows)]
        self.held += [[]] * (free[-1] + 1 - len(self.held))
        # The last token is always read: its logits are wanted.
        known = [common(held, decoding.tokens[:-1]) for held in self.held]
        slot = max(free, key=known.__getitem__)
        self.rows[slot : slot + 1] = [decoding]
        if slot >= self.slots.rows or decoding.limit > self.slots.tokens:
            rows = min(self._limit, self._affordable(decoding.limit))
            self.slots.resize(rows, decoding.limit, [len(held) for held in self.held])
            del self.held[rows:], known[rows:]
        source = max(range(len(known)), key=known.__getitem__)
        if known[source] > known[slot]:
            self.slots.copy(source, slot, known[source])
        self.held[slot] = decoding.tokens[: known[source]]

    def _is_being_read(self, decoding: Decoding) -> bool:
        """Whether a live row is about to hold much more of this one's beginning than any does now."""
        known = max((common(held, decoding.tokens) for held in self.held), default=0)
        return any(
            common(row.tokens, decoding.tokens) >= known + WORTH_WAITING
            for row in self.rows
            if row is not None
        )

    def _affordable(self, tokens: int) -> int:
        """How many slots of so many tokens the memory has room for; at least those in use."""
        size = max(self.slots.tokens, -(-tokens // BLOCK) * BLOCK) * self._token_bytes
        return max(self._memory // size, len(self.rows))

    def _fits(self, decoding: Decoding) -> bool:
        size = max(self.slots.tokens, decoding.limit) * self._token_bytes
        return (self.live + 1) * size <= self._memory

    def _leave(self, slot: int) -> None:
        decoding = self.rows[slot]
        assert decoding is not None
        self.rows[slot] = None
        if decoding.generated.error:
            self.slots.wipe(slot, len(self.held[slot]))
            self.held[slot] = []
        self._limit = min(2 * self._limit, self._ceiling)

    def _retreat(self, error: Exception) -> list[Decoding]:
        """After a step that failed: half the rows go on, the others wait; one that fails alone has failed."""
        decodings = [row for row in self.rows if row is not None] or [self.waiting.popleft()]
        self.rows, self.held = [], []
        self.slots.clear()
        reason = f"{type(error).__name__}: {error}"
        if len(decodings) == 1:
            self._limit = self._ceiling = MAX_ROWS
            decodings[0].fail(GenerationError(self._explain(decodings[0], reason, error)))
            return decodings
        self._limit = len(decodings) // 2
        if is_out_of_memory(error):
            self._ceiling = self._limit
        logger.warning("a step of %d rows failed (%s): going on with %d", len(decodings), reason, self._limit)
        self.waiting.extendleft(reversed(decodings))
        return []

    def _explain(self, decoding: Decoding, reason: str, error: Exception) -> str:
        if not is_out_of_memory(error):
            return f"the model failed on this conversation: {reason}"
        needed = decoding.limit * self._token_bytes / 2**30
        return (
            f"out of memory for one conversation alone: its keys and values take up to {needed:.2f} GiB "
            f"({decoding.limit} tokens of {self._token_bytes / 2**10:.0f} KiB) beside the weights, and "
            f"{free_memory(self.model.device) / 2**30:.2f} GiB are free. Lower max_new_tokens, shorten the "
            f"conversation, or take a smaller model ({reason})"
        )


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two sequences begin with alike."""
    shorter = min(len(one), len(other))
    if one[:shorter] == other[:shorter]:
        return shorter
    return bisect.bisect_left(range(shorter), True, key=lambda end: one[: end + 1] != other[: end + 1])
