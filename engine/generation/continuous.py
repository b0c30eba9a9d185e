"""Continuous (in-flight) batching: a scheduler that admits, prefills, decodes and preempts sequences.

A sequence that ends leaves at once, and the next one takes its slot. Each step is one forward pass. A
decoding sequence is extended by the token sampled last, a prefilling one by a chunk of its prompt (chunked
prefill, within a token budget per step). Both are the same: the scheduler tracks which tokens of each
sequence are in the KV cache, and a step computes the next ones.

- Prefix caching: a sequence starts from the longest prefix that any slot has cached: a shared system prompt,
  the turn before it, the same prompt sampled n times.
- Deferring: a waiting sequence is not admitted while a running one prefills a prefix that both share.
- Preemption: when a step fails, the KV cache is cleared and half as many sequences run. If memory ran out,
  it stays so; after any other error the number grows again as sequences end. The others wait. All keep the
  tokens they have generated, whose keys and values are recomputed when they run again.
"""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice

import torch
from transformers import PreTrainedModel

from engine.attention import packed
from engine.batching import MAX_SEQUENCES, common_prefix
from engine.errors import GenerationError
from engine.generation.forward_batch import ForwardBatch, QueryChunk
from engine.generation.kv_cache import KVCache
from engine.generation.sequence import SequenceState, TokenizedRequest, extend
from engine.memory import free_memory, is_out_of_memory, usable_memory
from engine.replay.step import MOST_TOKENS, ReplayedStep, replaced_forward

logger = logging.getLogger(__name__)

# The most prompt tokens that a step prefills, so that a long prompt does not stall the other answers.
PREFILL_BUDGET = 512
# The most running sequences whose next tokens are drafted. More share the reading of the weights.
MOST_DRAFTING = 3
# A sequence is deferred if waiting for a running one's prefill spares it this number of tokens.
DEFER_TOKENS = 32


class ContinuousBatching:
    """The scheduler and its KV cache.

    Attributes:
        waiting: the queue of sequences without a slot.
        running: the sequence in each slot; None where it has just ended.
        cached_tokens: the token ids in each slot's KV cache, also of a sequence that has ended.
        kv_cache: their keys and values.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        eos: frozenset[int],
        kv_token_bytes: int,
        replayed: ReplayedStep | None = None,
    ) -> None:
        """Takes a model that supports continuous batching.

        Args:
            eos: token ids that end a sequence.
            kv_token_bytes: bytes of KV cache that a token takes, by `check_continuous_batching`.
            replayed: the model's forward pass over few tokens, by `engine.replay.step.record`.
        """
        self.model = model
        self.eos = eos
        self.waiting: deque[SequenceState] = deque()
        self.running: list[SequenceState | None] = []
        self.cached_tokens: list[list[int]] = []
        self.kv_cache = KVCache()
        # The most sequences to run now, and the most that this may grow to. A step that fails lowers the
        # limit, and each sequence that ends doubles it up to the ceiling, which only out of memory lowers.
        self._limit = self._ceiling = MAX_SEQUENCES
        self._kv_token_bytes = kv_token_bytes
        self._replayed = replayed
        self._memory = usable_memory(model.device)

    @property
    def num_running(self) -> int:
        """Number of sequences that have a slot."""
        return sum(sequence is not None for sequence in self.running)

    @property
    def busy(self) -> bool:
        """Whether any sequence has not ended."""
        return bool(self.waiting or self.num_running)

    def add(self, request: TokenizedRequest, front: bool = False) -> SequenceState:
        """Queues a request; `front` puts it before all others."""
        sequence = SequenceState(request, self.model, self.eos)
        if front:
            self.waiting.appendleft(sequence)
        else:
            self.waiting.append(sequence)
        return sequence

    def drop(self, sequence: SequenceState) -> None:
        """Ends a sequence, if it is here. What its slot has cached stays, for others with that prefix."""
        if sequence in self.running:
            self._release(self.running.index(sequence))
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    @torch.inference_mode()
    def step(self) -> list[SequenceState]:
        """Runs the model once; returns the sequences that were sampled or have failed."""
        try:
            self._admit()
            chunks = list(self._schedule())
            # Those whose last token is computed have their next token sampled.
            complete = [chunk for chunk in chunks if chunk.end >= len(self._sequence(chunk).tokens)]
            results = self._run(chunks, complete)
        except Exception as error:  # Third-party code: any exception is possible.
            return self._preempt_or_fail(error)
        sequences = [self._sequence(chunk) for chunk in complete]
        if sequences:
            extend(sequences, results, drafts=[chunk.draft for chunk in complete])
        for chunk in chunks:
            self._keep(chunk)
        for chunk, sequence in zip(complete, sequences, strict=True):
            if not sequence.running:
                self._release(chunk.slot)
        return sequences

    def _sequence(self, chunk: QueryChunk) -> SequenceState:
        sequence = self.running[chunk.slot]
        assert sequence is not None
        return sequence

    def _keep(self, chunk: QueryChunk) -> None:
        """Takes note of the tokens that a chunk has cached, without a rejected draft or a failed sequence."""
        sequence = self._sequence(chunk)
        end = 0 if sequence.generated.error else min(chunk.end, len(sequence.tokens) - 1)
        if end < chunk.end:
            self.kv_cache.zero(chunk.slot, end, chunk.end)
        self.cached_tokens[chunk.slot] = sequence.tokens[:end]

    def _run(self, chunks: Sequence[QueryChunk], complete: Sequence[QueryChunk]) -> torch.Tensor:
        """(rows, vocabulary): the logits after each complete chunk's sequence and each token of its draft."""
        batch = ForwardBatch(self.kv_cache, chunks, self.model.device)
        ends = accumulate(len(chunk.tokens) for chunk in batch.chunks)
        end_of = {chunk.slot: end for chunk, end in zip(batch.chunks, ends, strict=True)}
        indices = [
            index
            for chunk in complete
            for index in range(end_of[chunk.slot] - 1 - len(chunk.draft), end_of[chunk.slot])
        ] or [0]
        inputs = self.model, batch.tokens, batch.positions, batch, indices
        if self._replayed is None or len(batch.tokens) > MOST_TOKENS:
            return packed.logits(*inputs)
        with replaced_forward(self.model, self._replayed.forward):
            return packed.logits(*inputs)

    def _schedule(self) -> Iterator[QueryChunk]:
        """The tokens of this step: of decoding sequences the last and a draft, and prefill chunks."""
        pending = [
            (slot, len(self.cached_tokens[slot]), sequence)
            for slot, sequence in enumerate(self.running)
            if sequence is not None
        ]
        prefilling = []
        for slot, start, sequence in pending:
            if len(sequence.tokens) - start == 1:
                yield QueryChunk(slot, start, sequence.tokens[start:], self._draft(sequence))
            else:
                prefilling.append((slot, start, sequence))
        budget = PREFILL_BUDGET
        for slot, start, sequence in prefilling:
            # A single token is left for the next step, where it shares an attention batch.
            if budget > 1:
                tokens = sequence.tokens[start : start + budget]
                budget -= len(tokens)
                yield QueryChunk(slot, start, tokens)

    def _draft(self, sequence: SequenceState) -> list[int]:
        """What may come after a sequence's last token, to be verified in this step."""
        if self.num_running > MOST_DRAFTING or not sequence.sampler.plain:
            return []
        # The token after the draft is sampled, too.
        return sequence.lookup.draft(sequence.request.max_new_tokens - len(sequence.generated.token_ids) - 1)

    def _admit(self) -> None:
        """Gives slots to waiting sequences, and moves the last ones into slots that stay empty."""
        for sequence in list(islice(self.waiting, 2 * MAX_SEQUENCES)):
            if self.num_running == self._limit or (self.num_running and not self._fits(sequence)):
                break
            if not self._should_defer(sequence):
                self.waiting.remove(sequence)
                self._assign_slot(sequence)
        while None in self.running:
            gap, last = self.running.index(None), len(self.running) - 1
            moved = self.running.pop()
            if moved is not None:
                tokens = len(self.cached_tokens[last])
                self.kv_cache.copy(last, gap, tokens)
                self.kv_cache.zero(last, 0, tokens)
                self.running[gap] = moved
                self.cached_tokens[gap], self.cached_tokens[last] = self.cached_tokens[last], []

    def _assign_slot(self, sequence: SequenceState) -> None:
        """Puts a sequence into a free slot, with the longest prefix of it that any slot has cached."""
        free = [slot for slot, running in enumerate(self.running) if running is None] or [len(self.running)]
        self.cached_tokens += [[]] * (free[-1] + 1 - len(self.cached_tokens))
        # The last token is always computed: its logits are needed.
        prefixes = [common_prefix(cached, sequence.tokens[:-1]) for cached in self.cached_tokens]
        slot = max(free, key=prefixes.__getitem__)
        self.running[slot : slot + 1] = [sequence]
        if slot >= self.kv_cache.slots or sequence.max_length > self.kv_cache.capacity:
            tokens = self._slot_tokens(sequence.max_length)
            slots = min(self._limit, self._affordable_slots(tokens))
            self.kv_cache.resize(slots, tokens, [len(cached) for cached in self.cached_tokens])
            del self.cached_tokens[slots:], prefixes[slots:]
        source = max(range(len(prefixes)), key=prefixes.__getitem__)
        if prefixes[source] > prefixes[slot]:
            self.kv_cache.copy(source, slot, prefixes[source])
        self.cached_tokens[slot] = sequence.tokens[: prefixes[source]]
        if not sequence.generated.token_ids:
            sequence.cached_tokens = prefixes[source]

    def _should_defer(self, sequence: SequenceState) -> bool:
        """Whether a running sequence is about to cache a much longer prefix of this one than any slot has."""
        cached = max((common_prefix(cached, sequence.tokens) for cached in self.cached_tokens), default=0)
        return any(
            common_prefix(running.tokens, sequence.tokens) >= cached + DEFER_TOKENS
            for running in self.running
            if running is not None
        )

    def _slot_tokens(self, tokens: int) -> int:
        """How long to make the slots for a sequence of so many tokens.

        A growth copies all that is cached, so that they get twice the length on a CPU, which does not commit
        the memory before it is written, if all slots then fit into the memory.
        """
        if self.model.device.type != "cpu" or tokens <= self.kv_cache.capacity:
            return tokens
        return 2 * tokens if self._affordable_slots(2 * tokens) >= self._ceiling else tokens

    def _affordable_slots(self, tokens: int) -> int:
        """How many slots of at least `tokens` fit into the memory; not less than are in use."""
        return max(self._memory // self._slot_bytes(tokens), len(self.running))

    def _fits(self, sequence: SequenceState) -> bool:
        """Whether the memory has room for one more slot, with all slots long enough for this sequence."""
        return (self.num_running + 1) * self._slot_bytes(sequence.max_length) <= self._memory

    def _slot_bytes(self, tokens: int) -> int:
        """Bytes of a slot with room for `tokens`, and for all that the present slots have room for."""
        return self.kv_cache.capacity_for(tokens) * self._kv_token_bytes

    def _release(self, slot: int) -> None:
        """Frees the slot of a sequence that has ended, and raises the limit towards the ceiling.

        The slot's KV cache stays, for other sequences with that prefix.
        """
        sequence = self.running[slot]
        assert sequence is not None
        self.running[slot] = None
        self._limit = min(2 * self._limit, self._ceiling)

    def _preempt_or_fail(self, error: Exception) -> list[SequenceState]:
        """After a step that failed: clears the KV cache, and runs half as many sequences.

        Only after an out-of-memory error it stays so: see `_release`.

        The sequences go back to the front of the queue with what they have generated, to be recomputed. A
        sequence that failed alone is ended and returned.
        """
        sequences = [sequence for sequence in self.running if sequence is not None]
        sequences = sequences or [self.waiting.popleft()]
        self.running, self.cached_tokens = [], []
        self.kv_cache.clear()
        reason = f"{type(error).__name__}: {error}"
        if len(sequences) == 1:
            self._limit = self._ceiling = MAX_SEQUENCES
            sequences[0].fail(GenerationError(self._explain(sequences[0], reason, error)))
            return sequences
        self._limit = len(sequences) // 2
        if is_out_of_memory(error):
            self._ceiling = self._limit
        logger.warning(
            "a step of %d sequences failed (%s): running %d from now on", len(sequences), reason, self._limit
        )
        self.waiting.extendleft(reversed(sequences))
        return []

    def _explain(self, sequence: SequenceState, reason: str, error: Exception) -> str:
        if not is_out_of_memory(error):
            return f"the model failed on this conversation: {reason}"
        needed = sequence.max_length * self._kv_token_bytes / 2**30
        return (
            f"out of memory for one conversation alone: its keys and values take up to {needed:.2f} GiB "
            f"({sequence.max_length} tokens of {self._kv_token_bytes / 2**10:.0f} KiB) beside the weights, "
            f"and {free_memory(self.model.device) / 2**30:.2f} GiB are free. Lower max_new_tokens, shorten "
            f"the conversation, or take a smaller model ({reason})"
        )
