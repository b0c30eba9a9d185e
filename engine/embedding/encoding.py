"""Token ids in, hidden states out: token-budget batches, without padding where the model allows it."""

import inspect
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from engine import trial
from engine.attention import packed
from engine.errors import ConfigurationError, Unsupported
from engine.memory import is_out_of_memory
from engine.module_state import forget
from engine.progress import progress_bar

logger = logging.getLogger(__name__)

# Tokens of a batch. A CPU is busy with these; an accelerator needs more.
CPU_BUDGET, BUDGET = 2048, 16384

Way = Literal["packed", "padded", "level", "single"]


class Encoder:
    """Runs a decoder without its head, an encoder, or the encoder of an encoder-decoder model.

    Args:
        pad: the token id to fill short texts with, where the model has to be run with padding.
        examples: token ids of a few texts of different lengths, one of them long.

    Attributes:
        way: how texts share a batch, the first that gives these examples the states they have alone: "packed"
            in one row, "padded" in rows, "level" in rows of one length, or "single".
        width: numbers in a hidden state.
        vocabulary: how many token ids the model has.
        window: the most tokens of a text that the model has positions for; None where there is no bound.

    Raises:
        Unsupported: a model that gives no hidden states.
    """

    def __init__(self, model: PreTrainedModel, pad: int, examples: Sequence[Sequence[int]]) -> None:
        self.model = _headless(model)
        self.vocabulary = trial.vocabulary(self.model)
        self.pad = pad
        self.padding = _padding_position(self.model)
        # A longrope model's long texts run apart, by their length.
        self.switch = packed.switch(self.model) or math.inf
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or 0
        self.window = positions - (0 if self.padding is None else self.padding + 1) if positions > 0 else None
        self.budget = CPU_BUDGET if self.model.device.type == "cpu" else BUDGET
        longest = min(filter(None, (self.window, packed.switch(self.model))), default=None)
        examples = [tokens[:longest] for tokens in examples]
        with torch.inference_mode():
            self.width = self._alone(examples)[0].shape[1]
            self.way: Way = next((way for way in self._ways() if self._is_right(way, examples)), "single")
        logger.info("%s takes texts %s", type(self.model).__name__, self.way)

    def run(
        self, texts: Sequence[Sequence[int]], layer: int = -1
    ) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
        """The states of all texts, a batch at a time.

        Args:
            texts: token ids; a text may have none.
            layer: 0 is the embeddings, 1 the first layer's output, -1 the last hidden states.

        Yields:
            Indices of texts, and the states of each, (tokens, dim). Every text comes once, in no set order.

        Raises:
            ConfigurationError: a layer that the model does not have.
        """
        width = self.width
        with progress_bar("reading texts", len(texts), "text") as bar:
            for whole in self._batches([len(tokens) for tokens in texts]):
                for batch, states in self._halved(whole, texts, layer):
                    width = states[0].shape[1]
                    yield batch, states
                    bar.update(len(batch))
        if empty := [i for i, tokens in enumerate(texts) if not tokens]:
            yield empty, [torch.zeros(0, width)] * len(empty)

    def _halved(
        self, batch: list[int], texts: Sequence[Sequence[int]], layer: int
    ) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
        """The states of a batch; where memory runs out, of its halves."""
        try:
            with torch.inference_mode():
                states = self._states(self.way, [texts[i] for i in batch], layer)
        except Exception as error:
            if len(batch) == 1 or not is_out_of_memory(error):
                raise
            logger.warning("%d texts do not fit into memory (%s): trying halves", len(batch), error)
        else:
            yield batch, states
            return
        # Not within `except`: there the error still holds what filled the memory.
        half = len(batch) // 2
        yield from self._halved(batch[:half], texts, layer)
        yield from self._halved(batch[half:], texts, layer)

    def _batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        # The longest first: where memory is short, it is short at once.
        batch: list[int] = []
        used = 0
        for i in sorted(filter(lengths.__getitem__, range(len(lengths))), key=lambda i: -lengths[i]):
            longest = lengths[batch[0]] if batch else lengths[i]
            cost = lengths[i] if self.way == "packed" else longest
            mixed = lengths[i] != longest and (self.way == "level" or longest > self.switch)
            if batch and (self.way == "single" or mixed or used + cost > self.budget):
                yield batch
                batch, used, cost = [], 0, lengths[i]
            batch.append(i)
            used += cost
        if batch:
            yield batch

    def _ways(self) -> list[Way]:
        if packed.packs(self.model):
            return ["packed", "padded", "level"]
        return ["level"] if trial.minds_padding(self.model) else ["padded", "level"]

    def _alone(self, examples: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        try:
            return [self._states("single", [tokens], -1)[0] for tokens in examples]
        except Unsupported:
            raise
        except Exception as error:  # A model's code is its author's.
            name, reason = type(self.model).__name__, f"{type(error).__name__}: {error}"
            raise Unsupported(
                f"{name} gives no hidden states of a text: it fails by itself ({reason})"
            ) from None

    def _is_right(self, way: Way, examples: Sequence[Sequence[int]]) -> bool:
        if way == "level":
            length = min(map(len, examples))
            examples = [tokens[:length] for tokens in examples]
        try:
            with trial.narrowed(self.model):
                found, expected = self._states(way, examples, -1), self._alone(examples)
            return trial.heeds(self.model, found, expected, lambda: self._alone(examples))
        except Exception as error:  # A model that cannot says so in many ways.
            logger.debug("%s does not take texts %s: %s", type(self.model).__name__, way, error)
            return False

    def _states(self, way: Way, texts: Sequence[Sequence[int]], layer: int) -> list[torch.Tensor]:
        wanted: dict[str, Any] = {"output_hidden_states": True} if layer != -1 else {}
        lengths = [len(tokens) for tokens in texts]
        if way == "packed":
            row = [token for tokens in texts for token in tokens]
            places = [place for tokens in texts for place in _positions(tokens, self.padding)]
            output = packed.forward(self.model, row, places, packed.Texts(lengths), **wanted)
            return list(_layer(output, layer)[0].split(lengths))
        ids = torch.tensor([[*tokens, *[self.pad] * (max(lengths) - len(tokens))] for tokens in texts])
        if way == "padded":
            mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
            wanted["attention_mask"] = mask.long().to(self.model.device)
        if "use_cache" in inspect.signature(self.model.forward).parameters:
            wanted["use_cache"] = False
        with packed.alone(self.model):
            forget(self.model)
            output = self.model(input_ids=ids.to(self.model.device), **wanted)
        return [row[:length] for row, length in zip(_layer(output, layer), lengths, strict=True)]


def _headless(model: PreTrainedModel) -> PreTrainedModel:
    """The part of a model that makes hidden states.

    Raises:
        Unsupported: it has none that runs by itself.
    """
    own: Any = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    if own is model and model.can_generate():  # The class names no part of its own (Llama 4).
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


def _padding_position(model: PreTrainedModel) -> int | None:
    # RoBERTa and its kin keep a position for padding, and count tokens from behind it.
    for module in model.modules():
        place = getattr(module, "padding_idx", None)
        if isinstance(place, int) and hasattr(module, "position_embeddings"):
            return place
    return None


def _positions(tokens: Sequence[int], padding: int | None) -> Iterable[int]:
    if padding is None:
        return range(len(tokens))
    real = [token != padding for token in tokens]
    return (padding + count * is_real for count, is_real in zip(accumulate(real), real, strict=True))
