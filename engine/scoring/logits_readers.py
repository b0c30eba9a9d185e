"""Three ways to get the logits of several sequences in one forward pass: packed trees, padding, a decoder."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from engine.attention.packed import logits
from engine.batching import common_prefix
from engine.module_state import model_lock, reset_state
from engine.scoring.tree_attention import TreeMetadata


@dataclass(frozen=True, slots=True)
class ScoringInput:
    """One prompt with one candidate, as the model reads and scores it.

    Attributes:
        tokens: the decoder's input: the prompt and the candidate without its last token, which is only a
            target; in an encoder-decoder model the start token replaces the prompt.
        targets: the candidate's tokens, scored by the logits of the last positions, one each. If empty, the
            last position is wanted by itself.
        group: index of the prompt and its number of tokens; inputs with the same group share the prompt.
        encoder_tokens: the encoder's input; empty for a decoder-only model.
    """

    tokens: tuple[int, ...]
    targets: tuple[int, ...]
    group: tuple[int, int]
    encoder_tokens: tuple[int, ...] = ()

    @property
    def positions(self) -> range:
        """The positions whose logits are wanted: the last ones, one for each target."""
        return range(len(self.tokens) - max(1, len(self.targets)), len(self.tokens))


# Logits (n, vocabulary), and for each input the rows of the logits at its positions, in order.
Logits = tuple[torch.Tensor, list[list[int]]]


class LogitsReader(Protocol):
    """A way to get the logits of several inputs in one forward pass of a model."""

    model: PreTrainedModel

    def sort_key(self, item: ScoringInput) -> tuple[Any, ...]:
        """Sorts inputs so that neighbours are cheap to read together."""
        ...

    def costs(self, inputs: Iterable[ScoringInput]) -> Iterator[tuple[int, int]]:
        """The tokens (with padding) and rows of logits of one pass over sorted inputs, up to each of them."""
        ...

    def logits(self, inputs: Sequence[ScoringInput]) -> Logits:
        """Runs the model on sorted inputs."""
        ...


class TreeReader:
    """Reads inputs as prefix trees: a prefix that several inputs have in common is read once.

    inputs       p p p a b,  p p p a c d,  p p p e,  q q
    tokens       p p p a b c d e q q     depth-first, in one row, nothing padded
    positions    0 1 2 3 4 4 5 3 0 1
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def sort_key(self, item: ScoringInput) -> tuple[Any, ...]:
        """By tokens, so that inputs with a common prefix are neighbours."""
        return (item.tokens,)

    def costs(self, inputs: Iterable[ScoringInput]) -> Iterator[tuple[int, int]]:
        """Distinct prefixes, and how many of them are followed by a target."""
        before: tuple[int, ...] = ()
        tokens = rows = 0
        for item in inputs:
            shared = common_prefix(before, item.tokens)
            tokens += len(item.tokens) - shared
            rows += len(item.tokens) - max(shared, item.positions.start)
            before = item.tokens
            yield tokens, rows

    def logits(self, inputs: Sequence[ScoringInput]) -> Logits:
        """One packed pass."""
        tokens: list[int] = []
        positions: list[int] = []
        wanted: list[list[int]] = []
        before: tuple[int, ...] = ()
        path: list[int] = []  # Where the tokens of an input are in the row.
        for item in inputs:
            shared = common_prefix(before, item.tokens)
            before = item.tokens
            path[shared:] = range(len(tokens), len(tokens) + len(before) - shared)
            tokens += before[shared:]
            positions += range(shared, len(before))
            wanted.append(path[item.positions.start :])
        keep = sorted(set(chain(*wanted)))
        row = {place: i for i, place in enumerate(keep)}
        results = logits(self.model, tokens, positions, TreeMetadata(positions), keep)
        return results, [[row[place] for place in places] for places in wanted]


class PaddedReader:
    """Reads whole inputs of similar length, padded on the right: for models with a state instead of keys."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def sort_key(self, item: ScoringInput) -> tuple[Any, ...]:
        """By length, the longest first."""
        return (-len(item.tokens),)

    def costs(self, inputs: Iterable[ScoringInput]) -> Iterator[tuple[int, int]]:
        """Tokens with padding, and rows of logits from the first position that is wanted."""
        width, first = 0, sys.maxsize
        for count, item in enumerate(inputs, 1):
            width, first = max(width, len(item.tokens)), min(first, item.positions.start)
            yield count * width, count * (width - first)

    def logits(self, inputs: Sequence[ScoringInput]) -> Logits:
        """One padded pass."""
        tokens, mask = _padded([item.tokens for item in inputs], self.model.device)
        first, width = min(item.positions[0] for item in inputs), tokens.shape[1]
        supported: Any = self.model._supports_logits_to_keep
        keep = {"logits_to_keep": width - first} if supported() else {}
        with model_lock(self.model):
            reset_state(self.model)
            logits = self.model(input_ids=tokens, attention_mask=mask, use_cache=False, **keep).logits
        positions = [[place - first for place in item.positions] for item in inputs]
        return _flattened(logits[:, first - width :], positions)


class EncoderDecoderReader:
    """Reads candidates as the targets of a decoder; the encoder reads each prompt once."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def sort_key(self, item: ScoringInput) -> tuple[Any, ...]:
        """By the encoder's length, the longest first, then by prompt and the decoder's length."""
        return -len(item.encoder_tokens), item.group, len(item.tokens)

    def costs(self, inputs: Iterable[ScoringInput]) -> Iterator[tuple[int, int]]:
        """Tokens of encoder and decoder with padding, and rows of logits."""
        encoder = decoder = 0
        for count, item in enumerate(inputs, 1):
            encoder = max(encoder, len(item.encoder_tokens))
            decoder = max(decoder, len(item.tokens))
            yield count * (encoder + decoder), count * decoder

    def logits(self, inputs: Sequence[ScoringInput]) -> Logits:
        """One padded pass of the encoder over distinct prompts, and one of the decoder."""
        prompts = list(dict.fromkeys(item.encoder_tokens for item in inputs))
        tokens, mask = _padded(prompts, self.model.device)
        encoder: Any = self.model.get_encoder()
        with model_lock(self.model):
            reset_state(self.model)
            encoded = encoder(input_ids=tokens, attention_mask=mask)
            index = {prompt: i for i, prompt in enumerate(prompts)}
            of = torch.tensor([index[item.encoder_tokens] for item in inputs], device=tokens.device)
            # Keep the encoder's own output class: some decoders read more fields of it (NLLB-MoE).
            encoded.last_hidden_state = encoded.last_hidden_state[of]
            # FSMT builds its mask from the input ids.
            logits = self.model(
                input_ids=tokens[of],
                encoder_outputs=encoded,
                attention_mask=mask[of],
                decoder_input_ids=_padded([item.tokens for item in inputs], self.model.device)[0],
                use_cache=False,
            ).logits
        return _flattened(logits, [list(item.positions) for item in inputs])


def _padded(sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids padded on the right with 0, and their attention mask; both (sequences, longest)."""
    width = max(map(len, sequences))
    tokens = torch.zeros(len(sequences), width, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for i, sequence in enumerate(sequences):
        tokens[i, : len(sequence)] = torch.tensor(sequence)
        mask[i, : len(sequence)] = 1
    return tokens.to(device), mask.to(device)


def _flattened(logits: torch.Tensor, positions: Sequence[Sequence[int]]) -> Logits:
    """(inputs, width, vocabulary) as (inputs × width, vocabulary), and the rows of each input's positions."""
    width = logits.shape[1]
    return logits.flatten(0, 1), [
        [i * width + place for place in places] for i, places in enumerate(positions)
    ]
