"""Computes hidden states of token ids, in batches within a token budget, without padding where possible."""

import inspect
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

import torch
from transformers import PreTrainedModel

from engine import trial
from engine.attention import packed
from engine.attention.varlen import VarlenMetadata
from engine.batching import Batching, length_batches, run_or_halve, token_budget
from engine.errors import ConfigurationError, Unsupported
from engine.memory import is_out_of_memory
from engine.model_properties import (
    longest_text,
    longrope_threshold,
    max_batch_length,
    padding_position,
    vocabulary_size,
)
from engine.module_state import model_lock, reset_state
from engine.progress import progress_bar

logger = logging.getLogger(__name__)


class HiddenStateReader:
    """Runs a decoder without its head, an encoder, or the encoder of an encoder-decoder model.

    Args:
        pad: token id for padding.
        examples: token ids of a few texts of different lengths, one of them long, for the trial.

    Attributes:
        batching: how texts share a batch: the first of "packed", "padded", "equal_length" and "single" that
            gives the examples the states they have alone.
        width: dimension of a hidden state.
        vocabulary: number of token ids.
        context_length: the most tokens of a sequence; None if unbounded.

    Raises:
        Unsupported: the model has no hidden states, or fails by itself.
    """

    def __init__(self, model: PreTrainedModel, pad: int, examples: Sequence[Sequence[int]]) -> None:
        self.model = _headless(model)
        self.vocabulary = vocabulary_size(self.model)
        self.pad = pad
        self.padding_position = padding_position(self.model)
        # Long texts of a longrope model are batched by length.
        self.longrope_threshold = longrope_threshold(self.model) or math.inf
        self.context_length = longest_text(self.model)
        self.budget = token_budget(self.model.device)
        longest = max_batch_length(self.model, self.context_length)
        examples = [tokens[:longest] for tokens in examples]
        with torch.inference_mode():
            self.width = self._alone(examples)[0].shape[1]
            correct = (batching for batching in self._batchings() if self._is_correct(batching, examples))
            self.batching: Batching = next(correct, "single")
        logger.info("%s embeds texts %s", type(self.model).__name__, self.batching)

    def run(
        self, texts: Sequence[Sequence[int]], layer: int = -1
    ) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
        """Computes the hidden states of all texts, one batch at a time.

        Args:
            texts: token ids of each text, possibly none.
            layer: 0 for the token embeddings, 1 for the first layer's output, -1 for the last hidden states.

        Yields:
            The indices of a batch of texts, and the hidden states of each, (tokens, dim). Each text comes
            once, in any order.

        Raises:
            ConfigurationError: the model does not have the layer.
        """
        width = self.width

        def run(batch: Sequence[int]) -> list[torch.Tensor]:
            with torch.inference_mode():
                return self._states(self.batching, [texts[i] for i in batch], layer)

        with progress_bar("reading texts", len(texts), "text") as bar:
            lengths = [len(tokens) for tokens in texts]
            for whole in length_batches(lengths, self.batching, self.budget, self.longrope_threshold):
                for batch, states in run_or_halve(whole, run, is_out_of_memory):
                    if isinstance(states, Exception):
                        raise states
                    width = states[0].shape[1]
                    yield list(batch), states
                    bar.update(len(batch))
        if empty := [i for i, tokens in enumerate(texts) if not tokens]:
            yield empty, [torch.zeros(0, width)] * len(empty)

    def _batchings(self) -> list[Batching]:
        if packed.supports_packing(self.model):
            return ["packed", "padded", "equal_length"]
        return ["equal_length"] if trial.forbids_padding(self.model) else ["padded", "equal_length"]

    def _alone(self, examples: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        try:
            return [self._states("single", [tokens], -1)[0] for tokens in examples]
        except Unsupported:
            raise
        except Exception as error:  # Third-party code: any exception is possible.
            name, reason = type(self.model).__name__, f"{type(error).__name__}: {error}"
            raise Unsupported(
                f"{name} gives no hidden states of a text: it fails by itself ({reason})"
            ) from None

    def _is_correct(self, batching: Batching, examples: Sequence[Sequence[int]]) -> bool:
        if batching == "equal_length":
            length = min(map(len, examples))
            examples = [tokens[:length] for tokens in examples]
        try:
            with trial.narrowed_windows(self.model):
                found, expected = self._states(batching, examples, -1), self._alone(examples)
            return trial.matches(self.model, found, expected, lambda: self._alone(examples))
        except Exception as error:  # Third-party code: any exception is possible.
            logger.debug("%s does not embed texts %s: %s", type(self.model).__name__, batching, error)
            return False

    def _states(self, batching: Batching, texts: Sequence[Sequence[int]], layer: int) -> list[torch.Tensor]:
        wanted: dict[str, Any] = {"output_hidden_states": True} if layer != -1 else {}
        lengths = [len(tokens) for tokens in texts]
        if batching == "packed":
            row = [token for tokens in texts for token in tokens]
            places = [place for tokens in texts for place in _positions(tokens, self.padding_position)]
            output = packed.forward(self.model, row, places, VarlenMetadata(lengths), **wanted)
            return list(_layer(output, layer)[0].split(lengths))
        ids = torch.tensor([[*tokens, *[self.pad] * (max(lengths) - len(tokens))] for tokens in texts])
        if batching == "padded":
            mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
            wanted["attention_mask"] = mask.long().to(self.model.device)
        if "use_cache" in inspect.signature(self.model.forward).parameters:
            wanted["use_cache"] = False
        with model_lock(self.model):
            reset_state(self.model)
            output = self.model(input_ids=ids.to(self.model.device), **wanted)
        return [row[:length] for row, length in zip(_layer(output, layer), lengths, strict=True)]


def _headless(model: PreTrainedModel) -> PreTrainedModel:
    """The part of a model that computes hidden states.

    Raises:
        Unsupported: there is none.
    """
    own: Any = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    if own is model and model.can_generate():  # Llama 4 has no `base_model`.
        own = getattr(model, "model", model)
    if not isinstance(own, PreTrainedModel):
        name = type(model).__name__
        raise Unsupported(f"{name} gives no hidden states: take an encoder or a language model")
    return own


def _layer(output: Any, layer: int) -> torch.Tensor:
    last = getattr(output, "last_hidden_state", None)
    if last is None:
        raise Unsupported("this model gives no hidden states: take an encoder or a language model")
    if layer == -1:
        return last
    states = output.hidden_states
    if not -len(states) <= layer < len(states):
        raise ConfigurationError(
            f"no layer {layer}: this model has {-len(states)} to {len(states) - 1}, where 0 is its embeddings"
        )
    return states[layer]


def _positions(tokens: Sequence[int], padding: int | None) -> Iterable[int]:
    if padding is None:
        return range(len(tokens))
    real = [token != padding for token in tokens]
    return (padding + count * is_real for count, is_real in zip(accumulate(real), real, strict=True))
