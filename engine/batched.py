"""Generation in batches, by transformers' own `generate`: for models whose rows cannot come and go.

Encoder-decoder models, and those that keep a state instead of keys. A batch ends with its last row.
"""

import copy
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from engine.choosing import MAX_ROWS, Decoding, Row, choose
from engine.errors import GenerationError
from engine.packing import alone, switch

logger = logging.getLogger(__name__)


class Batched:
    """The rows of one run, batch by batch."""

    def __init__(self, model: PreTrainedModel, eos: frozenset[int], pad: int, window: int | None) -> None:
        """Takes any model that `generate` takes.

        Args:
            pad: the id to fill short rows with; may be an end-of-sequence id, for padding is always masked.
            window: the most tokens that prompt and answer may have together; None where there is no bound.
        """
        self.model = model
        self.eos = eos
        self.pad = pad
        self.bound = _common_bound(model, window)
        self.waiting: list[Decoding] = []
        self.live = 0

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting)

    def add(self, row: Row, soon: bool = False) -> Decoding:
        """Lets a row wait for its batch; the longest prompts go first, whatever is wanted `soon`."""
        decoding = Decoding(row, self.model, self.eos)
        self.waiting.append(decoding)
        return decoding

    def step(self) -> list[Decoding]:
        """Generates the next batch to its end; returns its rows. One that fails is halved and tried again."""
        batch = self._next()
        self.live = len(batch)
        self._generate_or_halve(batch)
        self.live = 0
        return batch

    def _next(self) -> list[Decoding]:
        """Rows that may run together, longest prompts first; a row beyond the bound runs alone."""
        self.waiting.sort(key=lambda decoding: -len(decoding.row.prompt))
        count = prompt = answer = 0
        for row in (decoding.row for decoding in self.waiting[:MAX_ROWS]):
            prompt, answer = max(prompt, len(row.prompt)), max(answer, row.max_new_tokens)
            if count and self.bound is not None and prompt + answer > self.bound:
                break
            count += 1
        batch, self.waiting = self.waiting[:count], self.waiting[count:]
        return batch

    def _generate_or_halve(self, batch: list[Decoding]) -> None:
        try:
            self._generate(batch)
            return
        except (RuntimeError, ValueError, IndexError, MemoryError) as error:
            reason = f"{type(error).__name__}: {error}"
        for decoding in batch:
            decoding.restart()
        if len(batch) == 1:
            batch[0].fail(GenerationError(f"the model failed on this conversation: {reason}"))
            return
        logger.warning("a batch of %d rows failed (%s): trying halves", len(batch), reason)
        self._generate_or_halve(batch[: len(batch) // 2])
        self._generate_or_halve(batch[len(batch) // 2 :])

    def _generate(self, batch: Sequence[Decoding]) -> None:
        rows = [decoding.row for decoding in batch]
        width = max(len(row.prompt) for row in rows)
        input_ids = torch.full((len(rows), width), self.pad)
        mask = torch.zeros_like(input_ids)
        for i, row in enumerate(rows):
            # Answers continue a decoder's prompt at its right end; an encoder may have absolute positions.
            seq2seq = self.model.config.is_encoder_decoder
            place = slice(0, len(row.prompt)) if seq2seq else slice(width - len(row.prompt), width)
            input_ids[i, place] = torch.tensor(row.prompt)
            mask[i, place] = 1
        chooser = _Choose(batch)
        greedy = _greedy(self.model, max(row.max_new_tokens for row in rows), self.eos, self.pad)
        greedy.forward = chooser.watch(self.model.forward)
        with alone(self.model):
            greedy.generate(  # type: ignore[operator]
                input_ids=input_ids.to(self.model.device),
                attention_mask=mask.to(self.model.device),
                generation_config=greedy.generation_config,
                logits_processor=LogitsProcessorList([chooser]),
                stopping_criteria=StoppingCriteriaList([_Ended(batch)]),
            )


def has_rules(model: PreTrainedModel, eos: frozenset[int]) -> bool:
    """Whether the checkpoint itself forces or forbids tokens, whatever the options: `generate` knows how."""
    greedy: Any = _greedy(model, 1, eos, 0)
    greedy._prepare_special_tokens(greedy.generation_config, device="cpu")
    return bool(greedy._get_logits_processor(greedy.generation_config, input_ids_seq_length=1, device="cpu"))


def _common_bound(model: PreTrainedModel, window: int | None) -> int | None:
    """The most tokens that the longest prompt and the longest answer of one batch may have together.

    A row that has ended is padded on until its batch ends, and learned positions (GPT-2) have nothing beyond
    the window; longrope positions (Phi-3) are computed another way where any row is beyond a first window.
    """
    if model.config.is_encoder_decoder:
        return None
    return min(filter(None, (window, switch(model))), default=None)


def _greedy(model: PreTrainedModel, steps: int, eos: frozenset[int], pad: int) -> PreTrainedModel:
    """The model without the checkpoint's own ways to choose a token: `choosing` does that, row by row.

    What the checkpoint forces or forbids stays. A view that shares the weights, for `generate` takes from the
    model's settings whatever it is not given.
    """
    view, config = copy.copy(model), copy.deepcopy(model.generation_config)
    config.update(
        max_new_tokens=steps,
        max_length=None,
        do_sample=False,
        num_beams=1,
        num_return_sequences=1,
        temperature=None,
        top_k=None,
        top_p=None,
        min_p=None,
        typical_p=None,
        repetition_penalty=None,
        forced_eos_token_id=None,
        stop_strings=None,
        eos_token_id=sorted(eos) or None,
        pad_token_id=pad,
        return_dict_in_generate=False,
    )
    view.generation_config = config
    return view


class _Choose(LogitsProcessor):
    """Runs last among the processors: the row's token is chosen, and `generate` is left no other."""

    def __init__(self, decodings: Sequence[Decoding]) -> None:
        self.decodings = decodings

    def watch(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """A forward that also keeps its last logits here, as they are before the checkpoint forbids any."""

        @functools.wraps(forward)
        def watched(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            self.logits = output.logits[:, -1].to(torch.float32, copy=True)
            return output

        return watched

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        chosen = choose(self.decodings, self.logits.to(scores.device), scores)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)


class _Ended(StoppingCriteria):
    """Tells `generate` which rows are done."""

    def __init__(self, decodings: Sequence[Decoding]) -> None:
        self.decodings = decodings

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object) -> torch.Tensor:
        return torch.tensor([not decoding.live for decoding in self.decodings], device=input_ids.device)
