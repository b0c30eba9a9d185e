"""Token ids in, tokens and log-probabilities out: batched, by transformers' own `generate`.

Knows no text: what ends a row early is a function of its tokens. The one place where a token is chosen
is `_Decoding.choose`; log-probabilities come out of the same forward passes.
"""

import copy
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from engine.confidence import FIRST_TOP, Evidence
from engine.errors import GenerationError
from engine.options import GenerationOptions

logger = logging.getLogger(__name__)

MAX_ROWS = 32


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence to generate.

    Attributes:
        prompt: token ids that the model reads.
        max_new_tokens: the most tokens to generate; prompt and these together fit the model's window.
        options: how a token is chosen.
        ended: called with the tokens generated so far; True ends the row.
    """

    prompt: Sequence[int]
    max_new_tokens: int
    options: GenerationOptions
    ended: Callable[[Sequence[int]], bool] | None = None


@dataclass(slots=True)
class Generated:
    """What was generated for a row, and whether it ended by itself (not by its length)."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    first_top: list[float] = field(default_factory=list)
    stopped: bool = False

    @property
    def evidence(self) -> Evidence:
        """What a confidence is computed from."""
        return Evidence(self.logprobs, self.first_top)


def generate(
    model: PreTrainedModel, rows: Sequence[Row], *, eos: frozenset[int], pad: int, window: int | None
) -> list[Generated | GenerationError]:
    """Generates all rows, in batches; the result has the order and length of `rows`.

    In float32 a row's greedy tokens are those that `model.generate` gives for it alone. A batch that fails
    (out of memory, say) is halved and tried again, so that only a row that fails alone is lost.

    Args:
        eos: token ids that end a sequence.
        pad: the id to fill short rows with; may be an end-of-sequence id, for padding is always masked.
        window: the most tokens that prompt and answer may have together; None where there is no bound.
    """
    results: list[Generated | GenerationError | None] = [None] * len(rows)
    for batch in _batches(rows, _common_bound(model, window)):
        generated = _generate_or_halve(model, [rows[i] for i in batch], eos, pad)
        for i, result in zip(batch, generated, strict=True):
            results[i] = result
    return results  # type: ignore[return-value]  # every index is in one batch


def _common_bound(model: PreTrainedModel, window: int | None) -> int | None:
    """The most tokens that the longest prompt and the longest answer of one batch may have together.

    A row that has ended is padded on until its batch ends, and learned positions (GPT-2) have nothing beyond
    the window; longrope positions (Phi-3) are computed another way where any row is beyond a first window.
    """
    if model.config.is_encoder_decoder:
        return None
    rope = getattr(model.config, "rope_parameters", None) or {}
    switch = rope.get("original_max_position_embeddings") if rope.get("rope_type") == "longrope" else None
    return min(filter(None, (window, switch)), default=None)


def _batches(rows: Sequence[Row], bound: int | None) -> Iterator[list[int]]:
    """Indices of rows that may run together, longest prompts first; a row beyond the bound runs alone."""
    batch: list[int] = []
    prompt = answer = 0
    for i in sorted(range(len(rows)), key=lambda i: -len(rows[i].prompt)):
        wider = max(prompt, len(rows[i].prompt)), max(answer, rows[i].max_new_tokens)
        if batch and (len(batch) == MAX_ROWS or (bound is not None and sum(wider) > bound)):
            yield batch
            batch, wider = [], (len(rows[i].prompt), rows[i].max_new_tokens)
        prompt, answer = wider
        batch.append(i)
    if batch:
        yield batch


def _generate_or_halve(
    model: PreTrainedModel, rows: list[Row], eos: frozenset[int], pad: int
) -> list[Generated | GenerationError]:
    try:
        return list(_generate_batch(model, rows, eos, pad))
    except (RuntimeError, ValueError, IndexError) as error:
        reason = f"{type(error).__name__}: {error}"
        if len(rows) == 1:
            return [GenerationError(f"the model failed on this conversation: {reason}")]
        logger.warning("a batch of %d rows failed (%s): trying halves", len(rows), reason)
    half = len(rows) // 2
    return _generate_or_halve(model, rows[:half], eos, pad) + _generate_or_halve(model, rows[half:], eos, pad)


def _generate_batch(
    model: PreTrainedModel, rows: list[Row], eos: frozenset[int], pad: int
) -> list[Generated]:
    seq2seq = model.config.is_encoder_decoder
    width = max(len(row.prompt) for row in rows)
    input_ids = torch.full((len(rows), width), pad)
    mask = torch.zeros_like(input_ids)
    for i, row in enumerate(rows):
        # Answers continue a decoder's prompt at its right end; an encoder may have absolute positions.
        place = slice(0, len(row.prompt)) if seq2seq else slice(width - len(row.prompt), width)
        input_ids[i, place] = torch.tensor(row.prompt)
        mask[i, place] = 1
    decodings = [_Decoding(row, model, eos, 0 if seq2seq else width - len(row.prompt)) for row in rows]
    choose = _Choose(decodings)
    greedy = _greedy(model, max(row.max_new_tokens for row in rows), eos, pad)
    greedy.forward = choose.watch(model.forward)
    greedy.generate(  # type: ignore[operator]
        input_ids=input_ids.to(model.device),
        attention_mask=mask.to(model.device),
        generation_config=greedy.generation_config,
        logits_processor=LogitsProcessorList([choose]),
        stopping_criteria=StoppingCriteriaList([_Ended(decodings)]),
    )
    return [decoding.generated for decoding in decodings]


def _greedy(model: PreTrainedModel, steps: int, eos: frozenset[int], pad: int) -> PreTrainedModel:
    """The model without the checkpoint's own ways to choose a token: `_Decoding` does that, row by row.

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


class _Decoding:
    """The state of one row while its batch is generated."""

    def __init__(self, row: Row, model: PreTrainedModel, eos: frozenset[int], start: int) -> None:
        self.row = row
        self.eos = eos
        self.start = start  # Where the row's own tokens begin in the padded batch.
        self.live = True
        self.generated = Generated()
        options = row.options
        penalty = options.repetition_penalty or model.generation_config.repetition_penalty or 1.0
        self.penalty = RepetitionPenaltyLogitsProcessor(penalty) if penalty != 1 else None
        if options.sampled:
            self.warpers = _warpers(options)
            self.generator = torch.Generator(model.device)
            if options.seed is None:
                self.generator.seed()
            else:
                self.generator.manual_seed(options.seed)

    def choose(self, input_ids: torch.Tensor, scores: torch.Tensor) -> int:
        """The next token: greedy, or drawn with the row's own generator.

        Args:
            input_ids: (length,) the batch's tokens of this row so far, padding included.
            scores: (vocabulary,) the model's logits, float32.
        """
        scores = scores[None]
        if self.penalty:
            scores = self.penalty(input_ids[None, self.start :], scores)
        if not self.row.options.sampled:
            return int(scores.argmax())
        for warper in self.warpers:
            scores = warper(input_ids[None, self.start :], scores)
        return int(torch.multinomial(scores.softmax(-1)[0], 1, generator=self.generator))

    def record(self, token: int, logprob: float, logprobs: torch.Tensor) -> None:
        """Notes a chosen token and its log-probability, and whether the row has ended with it.

        Args:
            logprobs: (vocabulary,) of every token at this step, float32.
        """
        count = FIRST_TOP.get(self.row.options.confidence)
        if count and not self.generated.token_ids:
            self.generated.first_top = logprobs.topk(count).values.tolist()
        self.generated.token_ids.append(token)
        self.generated.logprobs.append(logprob)
        tokens = self.generated.token_ids
        self.generated.stopped = token in self.eos or bool(self.row.ended and self.row.ended(tokens))
        self.live = not self.generated.stopped and len(tokens) < self.row.max_new_tokens


class _Choose(LogitsProcessor):
    """Runs last among the processors: records the row's token, and leaves `generate` no other."""

    def __init__(self, decodings: list[_Decoding]) -> None:
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
        scores = scores.float()
        chosen = scores.argmax(-1)
        for i, decoding in enumerate(self.decodings):
            if decoding.live and (decoding.penalty or decoding.row.options.sampled):
                chosen[i] = decoding.choose(input_ids[i], scores[i])
        normalised = self.logits.to(scores.device).log_softmax(-1)
        logprobs = normalised.gather(1, chosen[:, None])[:, 0].tolist()
        for i, (decoding, token) in enumerate(zip(self.decodings, chosen.tolist(), strict=True)):
            if decoding.live:
                decoding.record(token, logprobs[i], normalised[i])
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)


class _Ended(StoppingCriteria):
    """Tells `generate` which rows are done."""

    def __init__(self, decodings: list[_Decoding]) -> None:
        self.decodings = decodings

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object) -> torch.Tensor:
        return torch.tensor([not decoding.live for decoding in self.decodings], device=input_ids.device)


def _warpers(options: GenerationOptions) -> list[LogitsProcessor]:
    """transformers' own filters for a sampled row, in the order in which its `generate` applies them."""
    warpers: list[LogitsProcessor] = []
    if options.temperature not in (None, 1.0):
        warpers.append(TemperatureLogitsWarper(options.temperature))
    if options.top_k is not None:
        warpers.append(TopKLogitsWarper(options.top_k))
    if options.top_p is not None and options.top_p < 1:
        warpers.append(TopPLogitsWarper(options.top_p))
    if options.min_p is not None:
        warpers.append(MinPLogitsWarper(options.min_p))
    return warpers
