"""transformers' `generate`, with each token sampled by a `BatchSampler`."""

import copy
import functools
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

from engine.module_state import model_lock, reset_state


class BatchSampler(LogitsProcessor):
    """Chooses the next token of each sequence: the last logits processor, which masks all other tokens.

    Attributes:
        logits: (sequences, vocabulary) float32, the model's logits before the checkpoint suppresses any.
    """

    logits: torch.Tensor

    def watch(self, forward: Callable[..., Any]) -> Callable[..., Any]:
        """Wraps a model's `forward` so that it also stores its last logits here."""

        @functools.wraps(forward)
        def watched(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            self.logits = output.logits[:, -1].to(torch.float32, copy=True)
            return output

        return watched

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Masks all tokens but the chosen ones: (sequences, vocabulary) logits, 0 or -inf."""
        chosen = self.sample(scores)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)

    def sample(self, scores: torch.Tensor) -> torch.Tensor:
        """Returns the next tokens, (sequences,).

        Args:
            scores: (sequences, vocabulary) logits, -inf where the checkpoint suppresses a token.
        """
        raise NotImplementedError


def generate(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    sampler: BatchSampler,
    *,
    max_new_tokens: int,
    eos: frozenset[int],
    pad: int,
    stopping: StoppingCriteria | None = None,
) -> None:
    """Runs `generate` on a batch of padded prompts; what it generates is up to the sampler, and kept there.

    Args:
        pad: the token id that fills short prompts; it is always masked.
        stopping: ends single sequences of the batch.

    Raises:
        Exception: whatever the model's code raises.
    """
    view = _without_sampling(model, max_new_tokens, eos, pad)
    input_ids = torch.tensor(padded(model, prompts, pad))
    mask = torch.tensor(padded(model, [[1] * len(prompt) for prompt in prompts], 0))
    view.forward = sampler.watch(view.forward)
    with model_lock(view):
        reset_state(view)
        view.generate(  # type: ignore[operator]
            input_ids=input_ids.to(view.device),
            attention_mask=mask.to(view.device),
            generation_config=view.generation_config,
            logits_processor=LogitsProcessorList([sampler]),
            stopping_criteria=StoppingCriteriaList([] if stopping is None else [stopping]),
        )


def has_token_rules(model: PreTrainedModel, eos: frozenset[int]) -> bool:
    """Whether the checkpoint's generation configuration forces or suppresses tokens, whatever the options."""
    view: Any = _without_sampling(model, 1, eos, 0)
    view._prepare_special_tokens(view.generation_config, device="cpu")
    return bool(view._get_logits_processor(view.generation_config, input_ids_seq_length=1, device="cpu"))


def padded(model: PreTrainedModel, rows: Sequence[Sequence[int]], filling: int) -> list[list[int]]:
    """Rows of equal length: padded on the left, and on the right for an encoder, which has positions."""
    width = max(map(len, rows))
    fillings = ([filling] * (width - len(row)) for row in rows)
    if model.config.is_encoder_decoder:
        return [[*row, *rest] for row, rest in zip(rows, fillings, strict=True)]
    return [[*rest, *row] for row, rest in zip(rows, fillings, strict=True)]


def _without_sampling(
    model: PreTrainedModel, max_new_tokens: int, eos: frozenset[int], pad: int
) -> PreTrainedModel:
    """A view of the model that shares its weights and does not sample; tokens it must force stay forced.

    A view, because `generate` takes from the model's own settings whatever it is not given.
    """
    view, config = copy.copy(model), copy.deepcopy(model.generation_config)
    config.update(
        max_new_tokens=max_new_tokens,
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
