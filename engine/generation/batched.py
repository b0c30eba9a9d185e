"""Static batching by transformers' own `generate`, for models without continuous batching.

Those are encoder-decoder models, models that keep a recurrent state instead of a KV cache, models sharded
over several devices, and checkpoints that force or forbid tokens (`support` decides). Of a longrope model
(Phi-3) only the sequences beyond its threshold are batched here. A batch runs until its last sequence ends.
"""

import logging
from collections.abc import Sequence
from typing import Literal

import torch
from transformers import PreTrainedModel, StoppingCriteria

from engine.attention.packed import longrope_threshold
from engine.errors import GenerationError
from engine.generation.hf_generate import BatchSampler, generate
from engine.generation.sequence import MAX_SEQUENCES, SequenceState, TokenizedRequest, extend

logger = logging.getLogger(__name__)

# Which sequences may share a batch: any, with padding; those with prompts of equal length; none.
BatchMode = Literal["padded", "equal_length", "single"]
# How a mode is called in the log and in the documentation.
MODE_NAMES: dict[BatchMode, str] = {
    "padded": "in batches",
    "equal_length": "in batches of one length",
    "single": "one by one",
}


class StaticBatching:
    """Generates sequences batch by batch.

    Attributes:
        waiting: sequences that are in no batch yet.
        num_running: number of sequences in the batch that is being generated.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        eos: frozenset[int],
        pad: int,
        context_length: int | None,
        mode: BatchMode = "padded",
    ) -> None:
        """Takes any model that `generate` takes.

        Args:
            eos: token ids that end a sequence.
            pad: the token id that fills short prompts; may be an EOS token, for padding is always masked.
            context_length: the most tokens that prompt and answer may have together; None: no limit.
            mode: which sequences may share a batch.
        """
        self.model = model
        self.eos = eos
        self.pad = pad
        self.mode = mode
        self.max_length = _max_batch_length(model, context_length)
        self.waiting: list[SequenceState] = []
        self.num_running = 0

    @property
    def busy(self) -> bool:
        """Whether any sequence has not ended."""
        return bool(self.waiting)

    def add(self, request: TokenizedRequest, front: bool = False) -> SequenceState:
        """Queues a request. The longest prompts go first, so `front` has no effect here."""
        sequence = SequenceState(request, self.model, self.eos)
        self.waiting.append(sequence)
        return sequence

    def drop(self, sequence: SequenceState) -> None:
        """Removes a sequence from the queue, if it is there. Between two steps no batch is running."""
        if sequence in self.waiting:
            self.waiting.remove(sequence)

    def step(self) -> list[SequenceState]:
        """Generates the next batch to its end and returns its sequences.

        A batch that fails is halved and retried; a sequence that fails alone has its error.
        """
        batch = self._next_batch()
        self.num_running = len(batch)
        self._generate_or_halve(batch)
        self.num_running = 0
        return batch

    def _next_batch(self) -> list[SequenceState]:
        """Sequences that may run together, longest prompts first; one beyond the bound runs alone."""
        self.waiting.sort(key=lambda sequence: -len(sequence.request.prompt))
        prompt = len(self.waiting[0].request.prompt)
        count = answer = 0
        for request in (
            sequence.request for sequence in self.waiting[: 1 if self.mode == "single" else MAX_SEQUENCES]
        ):
            answer = max(answer, request.max_new_tokens)
            too_long = self.max_length is not None and prompt + answer > self.max_length
            if count and (too_long or (self.mode == "equal_length" and len(request.prompt) != prompt)):
                break
            count += 1
        batch, self.waiting = self.waiting[:count], self.waiting[count:]
        return batch

    def _generate_or_halve(self, batch: list[SequenceState]) -> None:
        try:
            self._generate(batch)
            return
        except Exception as error:  # Third-party code: any exception is possible.
            reason = f"{type(error).__name__}: {error}"
        for sequence in batch:
            sequence.restart()
        if len(batch) == 1:
            batch[0].fail(GenerationError(f"the model failed on this conversation: {reason}"))
            return
        logger.warning("a batch of %d sequences failed (%s): trying halves", len(batch), reason)
        self._generate_or_halve(batch[: len(batch) // 2])
        self._generate_or_halve(batch[len(batch) // 2 :])

    def _generate(self, batch: Sequence[SequenceState]) -> None:
        generate(
            self.model,
            [sequence.request.prompt for sequence in batch],
            _SampledTokens(batch),
            max_new_tokens=max(sequence.request.max_new_tokens for sequence in batch),
            eos=self.eos,
            pad=self.pad,
            stopping=_Ended(batch),
        )


def _max_batch_length(model: PreTrainedModel, context_length: int | None) -> int | None:
    """The most tokens that the longest prompt and the longest answer of a batch may have together.

    `generate` pads a sequence that has ended until its batch ends, and learned positions (GPT-2) end at the
    context length. Longrope positions (Phi-3) change for the whole batch once it is beyond a threshold.
    """
    if model.config.is_encoder_decoder:
        return None
    return min(filter(None, (context_length, longrope_threshold(model))), default=None)


class _SampledTokens(BatchSampler):
    """Each sequence's next token, by its own sampler."""

    def __init__(self, sequences: Sequence[SequenceState]) -> None:
        self.sequences = sequences

    def sample(self, scores: torch.Tensor) -> torch.Tensor:
        """Extends the sequences and returns the last token of each, (sequences,)."""
        extend(self.sequences, self.logits.to(scores.device), scores)
        return torch.tensor([sequence.tokens[-1] for sequence in self.sequences], device=scores.device)


class _Ended(StoppingCriteria):
    """Tells `generate` which sequences have ended."""

    def __init__(self, sequences: Sequence[SequenceState]) -> None:
        self.sequences = sequences

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object) -> torch.Tensor:
        return torch.tensor([not sequence.running for sequence in self.sequences], device=input_ids.device)
