"""Generation in batches, by transformers' own `generate`: for models whose rows cannot come and go.

Encoder-decoder models, and those that keep a state instead of keys. A batch ends with its last row.
"""

import copy
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)

from engine import trial
from engine.attention.packed import alone, switch
from engine.errors import GenerationError, Unsupported
from engine.generation.sampling import MAX_ROWS, Decoding, Row, choose
from engine.module_state import forget

logger = logging.getLogger(__name__)

# Which rows may share a batch: any, padded on the left; those whose prompts are of one length; none.
Batching = Literal["padded", "level", "single"]
WAYS: dict[Batching, str] = {
    "padded": "in batches",
    "level": "in batches of one length",
    "single": "one by one",
}


class Batched:
    """The rows of one run, batch by batch."""

    def __init__(
        self,
        model: PreTrainedModel,
        eos: frozenset[int],
        pad: int,
        window: int | None,
        batching: Batching = "padded",
    ) -> None:
        """Takes any model that `generate` takes.

        Args:
            pad: the id to fill short rows with; may be an end-of-sequence id, for padding is always masked.
            window: the most tokens that prompt and answer may have together; None where there is no bound.
            batching: as `batching` found it.
        """
        self.model = model
        self.eos = eos
        self.pad = pad
        self.batching = batching
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
        prompt = len(self.waiting[0].row.prompt)
        count = answer = 0
        for row in (
            decoding.row for decoding in self.waiting[: 1 if self.batching == "single" else MAX_ROWS]
        ):
            answer = max(answer, row.max_new_tokens)
            too_long = self.bound is not None and prompt + answer > self.bound
            if count and (too_long or (self.batching == "level" and len(row.prompt) != prompt)):
                break
            count += 1
        batch, self.waiting = self.waiting[:count], self.waiting[count:]
        return batch

    def _generate_or_halve(self, batch: list[Decoding]) -> None:
        try:
            self._generate(batch)
            return
        except Exception as error:  # A model's code is its author's.
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
        chooser = _Choose(batch)
        steps = max(decoding.row.max_new_tokens for decoding in batch)
        _generate(
            _greedy(self.model, steps, self.eos, self.pad),
            [decoding.row.prompt for decoding in batch],
            chooser,
            StoppingCriteriaList([_Ended(batch)]),
        )


def batching(model: PreTrainedModel, pad: int) -> Batching:
    """Which rows may share a batch: the first way that gives some rows the logits that each has alone.

    A model that keeps a state may not heed padding; one whose experts have a capacity heeds its neighbours.

    Raises:
        Unsupported: a model that transformers itself cannot generate with.
    """
    prompts = trial.prompts(model)
    level = [prompts[0], trial.sequence(model, len(prompts[0]), step=19)]
    ways: list[tuple[Batching, list[list[int]]]] = [("padded", prompts), ("level", level)]
    alone = functools.cache(lambda row: continued(model, [row], pad))

    def unmasked(rows: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        return list(continued(model, _filled(model, rows, pad), pad))

    with trial.narrowed(model):
        for way, rows in ways[trial.minds_padding(model) :]:
            try:
                expected = [alone(tuple(row))[0] for row in rows]
            except Exception as error:  # A model's code is its author's.
                reason = f"{type(error).__name__}: {error}"
                raise Unsupported(
                    f"{type(model).__name__} cannot generate: it fails by itself ({reason})"
                ) from error
            try:
                found = list(continued(model, rows, pad))
                if trial.heeds(model, found, expected, functools.partial(unmasked, rows)):
                    return way
            except Exception as error:
                logger.debug("a trial of answers %s failed", way, exc_info=error)
    return "single"


def continued(model: PreTrainedModel, prompts: Sequence[Sequence[int]], pad: int) -> torch.Tensor:
    """(rows, steps, vocabulary): the logits of a batch that is made to go on by given tokens."""
    forced = trial.sequence(model, 2, step=29)
    chooser = _Force(forced)
    _generate(_greedy(model, len(forced), frozenset(), pad), prompts, chooser, StoppingCriteriaList())
    return torch.stack(chooser.given, dim=1)


def _generate(
    view: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    chooser: "_Chooser",
    stopping: StoppingCriteriaList,
) -> None:
    """Runs `generate` on padded prompts; the chooser, and it alone, chooses the tokens.

    Args:
        view: as `_greedy` returns it.
    """
    config: Any = view.generation_config
    input_ids = torch.tensor(_filled(view, prompts, config.pad_token_id))
    mask = torch.tensor(_filled(view, [[1] * len(prompt) for prompt in prompts], 0))
    view.forward = chooser.watch(view.forward)
    with alone(view):
        forget(view)
        view.generate(  # type: ignore[operator]
            input_ids=input_ids.to(view.device),
            attention_mask=mask.to(view.device),
            generation_config=config,
            logits_processor=LogitsProcessorList([chooser]),
            stopping_criteria=stopping,
        )


def _filled(model: PreTrainedModel, rows: Sequence[Sequence[int]], filling: int) -> list[list[int]]:
    """Rows of one length: an answer continues a decoder's at its right end; an encoder has positions."""
    width = max(map(len, rows))
    fillings = ([filling] * (width - len(row)) for row in rows)
    if model.config.is_encoder_decoder:
        return [[*row, *rest] for row, rest in zip(rows, fillings, strict=True)]
    return [[*rest, *row] for row, rest in zip(rows, fillings, strict=True)]


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


class _Chooser(LogitsProcessor):
    """Runs last among the processors: a token is chosen for each row, and `generate` is left no other."""

    logits: torch.Tensor

    def watch(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """A forward that also keeps its last logits here, as they are before the checkpoint forbids any."""

        @functools.wraps(forward)
        def watched(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            self.logits = output.logits[:, -1].to(torch.float32, copy=True)
            return output

        return watched

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        chosen = self.choose(scores)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)

    def choose(self, scores: torch.Tensor) -> torch.Tensor:
        """(rows,) the next tokens."""
        raise NotImplementedError


class _Choose(_Chooser):
    """Each row's token by the row's own options."""

    def __init__(self, decodings: Sequence[Decoding]) -> None:
        self.decodings = decodings

    def choose(self, scores: torch.Tensor) -> torch.Tensor:
        """See `_Chooser`."""
        return choose(self.decodings, self.logits.to(scores.device), scores)


class _Force(_Chooser):
    """The same given tokens for each row; what the model gave at each step is kept."""

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = tokens
        self.given: list[torch.Tensor] = []

    def choose(self, scores: torch.Tensor) -> torch.Tensor:
        """See `_Chooser`."""
        token = self.tokens[len(self.given)]
        self.given.append(self.logits)
        return torch.full((len(scores),), token, device=scores.device)


class _Ended(StoppingCriteria):
    """Tells `generate` which rows are done."""

    def __init__(self, decodings: Sequence[Decoding]) -> None:
        self.decodings = decodings

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object) -> torch.Tensor:
        return torch.tensor([not decoding.live for decoding in self.decodings], device=input_ids.device)
