"""Static batching by transformers' own `generate`, for models without continuous batching.

Those are encoder-decoder models, models that keep a recurrent state instead of a KV cache, models sharded
over several devices, and checkpoints that force or forbid tokens (`support` decides). Of a longrope model
(Phi-3) only the sequences beyond its threshold are batched here. A batch runs until its last sequence ends.
"""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, StoppingCriteria

from engine.batching import MAX_SEQUENCES, Batching, run_or_halve
from engine.errors import GenerationError
from engine.generation.hf_generate import BatchSampler, generate
from engine.generation.sequence import SequenceState, TokenizedRequest, extend
from engine.model_properties import max_batch_length


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
        batching: Batching = "padded",
    ) -> None:
        """Takes any model that `generate` takes.

        Args:
            eos: token ids that end a sequence.
            pad: the token id that fills short prompts; may be an EOS token, for padding is always masked.
            context_length: the most tokens that prompt and answer may have together; None: no limit.
            batching: which sequences may share a batch: "padded", "equal_length" or "single".
        """
        self.model = model
        self.eos = eos
        self.pad = pad
        self.batching = batching
        # The most tokens that the longest prompt and the longest answer of a batch may have together:
        # `generate` pads a sequence that has ended until its batch ends, and learned positions (GPT-2) end at
        # the context length.
        self.max_length = None if model.config.is_encoder_decoder else max_batch_length(model, context_length)
        self.waiting: list[SequenceState] = []
        self.num_running = 0

    @property
    def busy(self) -> bool:
        """Whether any sequence has not ended."""
        return bool(self.waiting)

    def add(self, request: TokenizedRequest) -> SequenceState:
        """Queues a request. The longest prompts are generated first."""
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
        for part, error in run_or_halve(batch, self._generate):
            if error is not None:
                reason = f"{type(error).__name__}: {error}"
                part[0].restart()
                part[0].fail(GenerationError(f"the model failed on this conversation: {reason}"))
        self.num_running = 0
        return batch

    def _next_batch(self) -> list[SequenceState]:
        """Sequences that may run together, longest prompts first; one beyond the bound runs alone."""
        self.waiting.sort(key=lambda sequence: -len(sequence.request.prompt))
        prompt = len(self.waiting[0].request.prompt)
        count = answer = 0
        for request in (
            sequence.request for sequence in self.waiting[: 1 if self.batching == "single" else MAX_SEQUENCES]
        ):
            answer = max(answer, request.max_new_tokens)
            too_long = self.max_length is not None and prompt + answer > self.max_length
            if count and (too_long or (self.batching == "equal_length" and len(request.prompt) != prompt)):
                break
            count += 1
        batch, self.waiting = self.waiting[:count], self.waiting[count:]
        return batch

    def _generate(self, batch: Sequence[SequenceState]) -> None:
        for sequence in batch:  # They may have tokens of a larger batch that failed.
            sequence.restart()
        generate(
            self.model,
            [sequence.request.prompt for sequence in batch],
            _SampledTokens(batch),
            max_new_tokens=max(sequence.request.max_new_tokens for sequence in batch),
            eos=self.eos,
            pad=self.pad,
            stopping=_Ended(batch),
        )


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
