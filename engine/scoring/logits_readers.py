"""Three ways to get the logits of several sequences in one forward pass: packed trees, padding, a decoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, groupby
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

    def cost(self, inputs: Sequence[ScoringInput]) -> tuple[int, int]:
        """The most tokens (with padding) and rows of logits that one pass over sorted inputs takes."""
        ...

    def logits(self, inputs: Sequence[ScoringInput]) -> Logits:
        """Runs the model on sorted inputs."""
        ...


class TreeReader:
    """Reads the inputs of a group as a tree: their common prefix once, then each continuation by itself.

    tokens       p p p p | a a | b b b |     one row of the trees of several prompts, nothing padded
    positions    0 1 2 3 | 4 5 | 4 5 6 |
    sees         the p before it; an a also the a before it, a b the b
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def sort_key(self, item: ScoringInput) -> tuple[Any, ...]:
        """By prompt."""
        return (item.group,)

    def cost(self, inputs: Sequence[ScoringInput]) -> tuple[int, int]:
        """Tokens and rows of logits, as if candidates had no common prefix."""
        wanted = sum(len(item.positions) for item in inputs)
        prompts = (next(group).positions[0] + 1 for _, group in groupby(inputs, key=lambda item: item.group))
        return sum(prompts) + wanted - len(inputs), wanted

    def logits(self, inputs: Sequence[ScoringInput]) -> Logits:
        """One packed pass."""
        tokens: list[int] = []
        positions: list[int] = []
        wanted: list[list[int]] = []
        trees: list[tuple[int, list[int]]] = []
        for _, members in groupby(inputs, key=lambda item: item.group):
            group = list(members)
            trunk = min(common_prefix(group[0].tokens, item.tokens) for item in group)
            start = len(tokens)
            tokens += group[0].tokens[:trunk]
            positions += range(trunk)
            for item in group:
                shift = len(tokens) - trunk
                wanted.append([(start if place < trunk else shift) + place for place in item.positions])
                tokens += item.tokens[trunk:]
                positions += range(trunk, len(item.tokens))
            trees.append((trunk, [len(item.tokens) - trunk for item in group]))
        keep = sorted(set(chain(*wanted)))
        row = {place: i for i, place in enumerate(keep)}
        results = logits(self.model, tokens, positions, TreeMetadata(trees), keep)
        return results, [[row[place] for place in places] for places in wanted]


class PaddedReader:
    """Reads whole inputs of similar length, padded on the right: for models with a state instead of keys."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def sort_key(self, item: ScoringInput) -> tuple[Any, ...]:
        """By length, the longest first."""
        return (-len(item.tokens),)

    def cost(self, inputs: Sequence[ScoringInput]) -> tuple[int, int]:
        """Tokens with padding, and rows of logits from the first position that is wanted."""
        width = len(inputs[0].tokens)
        return len(inputs) * width, len(inputs) * (width - min(item.positions[0] for item in inputs))

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

    def cost(self, inputs: Sequence[ScoringInput]) -> tuple[int, int]:
        """Tokens of encoder and decoder with padding, and rows of logits."""
        width = max(len(item.tokens) for item in inputs)
        return len(inputs) * (len(inputs[0].encoder_tokens) + width), len(inputs) * width

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
