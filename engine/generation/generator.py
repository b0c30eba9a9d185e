"""The generator: continuous batching where the model supports it, else static batching.

It knows token ids and no text: custom stopping criteria are callbacks on token ids.
"""

from transformers import PreTrainedModel

from engine.generation.batched import StaticBatching
from engine.generation.continuous import ContinuousBatching
from engine.generation.sequence import SequenceState, TokenizedRequest
from engine.generation.support import BatchingSupport
from engine.model_properties import longrope_threshold


class Generator:
    """Generates sequences: `add` queues them, and `step` advances them until none is `busy`."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        eos: frozenset[int],
        pad: int,
        context_length: int | None,
        support: BatchingSupport,
    ) -> None:
        """Runs nothing before the first step.

        Args:
            eos: token ids that end a sequence.
            pad: the token id that fills short prompts of a static batch.
            context_length: the most tokens that prompt and answer may have together; None: no limit.
            support: how the model's sequences may be batched, by `find_batching`.
        """
        continuous = support.batching == "continuous"
        self._continuous = (
            ContinuousBatching(model, eos, support.kv_token_bytes, support.replayed) if continuous else None
        )
        static = "padded" if continuous else support.batching
        self._static = StaticBatching(model, eos, pad, context_length, static)
        self._longrope_threshold = longrope_threshold(model)

    @property
    def busy(self) -> bool:
        """Whether any sequence has not ended."""
        return self._static.busy or (self._continuous is not None and self._continuous.busy)

    @property
    def num_running(self) -> int:
        """Number of sequences that are being generated."""
        return self._static.num_running + (self._continuous.num_running if self._continuous else 0)

    @property
    def kv_cache_bytes(self) -> int:
        """Bytes that the KV cache of continuous batching has room for."""
        return self._continuous.kv_cache.nbytes if self._continuous else 0

    @property
    def num_waiting(self) -> int:
        """Number of sequences in the queue."""
        return len(self._static.waiting) + (len(self._continuous.waiting) if self._continuous else 0)

    def add(self, request: TokenizedRequest, front: bool = False) -> SequenceState:
        """Queues a request.

        Args:
            front: whether it goes before all others, for the next turn of a conversation. Static batching
                generates the longest prompts first instead.
        """
        # Sequences beyond the threshold would change the positions of those within it.
        threshold = self._longrope_threshold
        long = threshold is not None and len(request.prompt) + request.max_new_tokens > threshold
        if self._continuous is None or long:
            return self._static.add(request)
        return self._continuous.add(request, front)

    def drop(self, sequence: SequenceState) -> None:
        """Ends a sequence that has not ended yet; `step` does not return it any more."""
        for batching in (self._continuous, self._static):
            if batching is not None:
                batching.drop(sequence)

    def step(self) -> list[SequenceState]:
        """Advances the running sequences and returns those that were sampled or have ended.

        A step is one forward pass in continuous batching, a whole batch in static batching. Where a model has
        both (longrope), static batches wait until continuous batching has no sequence left: they would stall
        its answers.
        """
        if self._continuous is not None and self._continuous.busy:
            return self._continuous.step()
        return self._static.step()
