"""Three ways to the logits of several rows of tokens: packed trees, padded rows, a decoder's targets."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, groupby, takewhile
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from engine.attention.packed import logits
from engine.attention.parameters import AttentionParameters
from engine.module_state import model_lock, reset_state

# Tokens of a tree whose attention is computed at a time, over the keys up to the last of them.
_BLOCK = 512
# The masks of a tree up to so many tokens are kept from layer to layer; larger ones would fill the memory.
_KEPT = 4096


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence to read.

    Attributes:
        tokens: what a decoder reads: a prompt and its continuation without the last token, which is only a
            target; for an encoder-decoder model the start token stands in the place of the prompt.
        targets: the tokens of the continuation: the logits of the last so many positions score them. Empty:
            the last position alone is asked for.
        group: the number of a prompt, and how many of its tokens are read: rows that share both share these.
        source: what the encoder reads, where there is one.
    """

    tokens: tuple[int, ...]
    targets: tuple[int, ...]
    group: tuple[int, int]
    source: tuple[int, ...] = ()

    @property
    def places(self) -> range:
        """The positions that are asked for: the last ones, one for each target."""
        return range(len(self.tokens) - max(1, len(self.targets)), len(self.tokens))


# Logits (n, vocabulary), and for each row which of them are its places, in order.
Logits = tuple[torch.Tensor, list[list[int]]]


class Reader(Protocol):
    """A way to get the logits of several rows in one pass of a model."""

    model: PreTrainedModel

    def order(self, row: Row) -> tuple[Any, ...]:
        """What rows are sorted by, so that neighbours are read well together."""
        ...

    def size(self, rows: Sequence[Row]) -> tuple[int, int]:
        """The tokens that a pass over these (in order) reads, padding included, and its rows of logits."""
        ...

    def logits(self, rows: Sequence[Row]) -> Logits:
        """Runs the model on rows that come in order."""
        ...


class Packed:
    """Rows of one group as a tree: what they begin with is read once, and each goes on from there by itself.

    tokens       p p p p | a a | b b b |     one row of the trees of several prompts, nothing padded
    positions    0 1 2 3 | 4 5 | 4 5 6 |
    sees         the p before it; an a also the a before it, a b the b
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def order(self, row: Row) -> tuple[Any, ...]:
        """See `Reader`."""
        return (row.group,)

    def size(self, rows: Sequence[Row]) -> tuple[int, int]:
        """See `Reader`; what candidates share by chance is not counted on."""
        places = sum(len(row.places) for row in rows)
        prompts = (next(group).places[0] + 1 for _, group in groupby(rows, key=lambda row: row.group))
        return sum(prompts) + places - len(rows), places

    def logits(self, rows: Sequence[Row]) -> Logits:
        """See `Reader`."""
        tokens: list[int] = []
        positions: list[int] = []
        asked: list[list[int]] = []
        trees: list[tuple[int, list[int]]] = []
        for _, members in groupby(rows, key=lambda row: row.group):
            group = list(members)
            trunk = _common([row.tokens for row in group])
            start = len(tokens)
            tokens += group[0].tokens[:trunk]
            positions += range(trunk)
            for row in group:
                shift = len(tokens) - trunk
                asked.append([(start if place < trunk else shift) + place for place in row.places])
                tokens += row.tokens[trunk:]
                positions += range(trunk, len(row.tokens))
            trees.append((trunk, [len(row.tokens) - trunk for row in group]))
        keep = sorted(set(chain(*asked)))
        index = {place: i for i, place in enumerate(keep)}
        results = logits(self.model, tokens, positions, Trees(trees), keep)
        return results, [[index[place] for place in places] for places in asked]


class Trees:
    """Attention metadata of trees: a trunk each, and branches that continue it without seeing one another.

    Scoring candidates this way is the verification step of tree-structured speculative decoding (SpecInfer,
    2023) with every branch given in advance.

    Args:
        trees: the tokens of each one's trunk and of its branches, in the order in which they are packed.
    """

    def __init__(self, trees: Sequence[tuple[int, list[int]]]) -> None:
        self.sizes = [trunk + sum(branches) for trunk, branches in trees]
        # By tree: each token's place in its own sequence, and the branch it belongs to (-1: the trunk).
        self.positions = [
            torch.tensor([*range(trunk), *(trunk + i for n in branches for i in range(n))])
            for trunk, branches in trees
        ]
        self.owners = [
            torch.tensor([-1] * trunk + [i for i, n in enumerate(branches) for _ in range(n)])
            for trunk, branches in trees
        ]
        self.masks: dict[tuple[object, ...], torch.Tensor] = {}

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        parameters: AttentionParameters,
    ) -> torch.Tensor:
        """See `engine.attention.packed.AttentionMetadata`."""
        outputs = []
        parts = zip(*(part[None].split(self.sizes, dim=2) for part in (query, key, value)), strict=True)
        for tree, (q, k, v) in enumerate(parts):
            for start in range(0, self.sizes[tree], _BLOCK):
                end = min(start + _BLOCK, self.sizes[tree])
                mask = self._mask(tree, start, end, parameters.sliding_window, q)
                outputs.append(parameters.attend(q[:, :, start:end], k[:, :, :end], v[:, :, :end], mask))
        return torch.cat(outputs, dim=2)[0].transpose(0, 1)

    def _mask(self, tree: int, start: int, end: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
        """What the tokens from start to end of a tree see of those up to end, (1, 1, end - start, end)."""
        name = (tree, start, window, like.device, like.dtype)
        if name in self.masks:
            return self.masks[name]
        position, owner = self.positions[tree][:end], self.owners[tree][:end]
        distance = position[start:, None] - position
        hidden = (distance < 0) | ((owner >= 0) & (owner != owner[start:, None]))
        if window is not None:
            hidden |= distance >= window
        mask = torch.zeros(1, 1, *hidden.shape, dtype=like.dtype).masked_fill_(hidden, -torch.inf)
        mask = mask.to(like.device)
        if self.sizes[tree] <= _KEPT:
            self.masks[name] = mask
        return mask


class Padded:
    """Whole rows of about one length, padded at their ends: for models that keep a state instead of keys."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def order(self, row: Row) -> tuple[Any, ...]:
        """See `Reader`."""
        return (-len(row.tokens),)

    def size(self, rows: Sequence[Row]) -> tuple[int, int]:
        """See `Reader`."""
        width = len(rows[0].tokens)
        return len(rows) * width, len(rows) * (width - min(row.places[0] for row in rows))

    def logits(self, rows: Sequence[Row]) -> Logits:
        """See `Reader`."""
        tokens, mask = _padded([row.tokens for row in rows], self.model.device)
        first, width = min(row.places[0] for row in rows), tokens.shape[1]
        supported: Any = self.model._supports_logits_to_keep
        keep = {"logits_to_keep": width - first} if supported() else {}
        with model_lock(self.model):
            reset_state(self.model)
            logits = self.model(input_ids=tokens, attention_mask=mask, use_cache=False, **keep).logits
        return _flat(logits[:, first - width :], [[place - first for place in row.places] for row in rows])


class EncoderDecoder:
    """Candidates as the targets of a decoder; the encoder reads each prompt once."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def order(self, row: Row) -> tuple[Any, ...]:
        """See `Reader`."""
        return -len(row.source), row.group, len(row.tokens)

    def size(self, rows: Sequence[Row]) -> tuple[int, int]:
        """See `Reader`."""
        width = max(len(row.tokens) for row in rows)
        return len(rows) * (len(rows[0].source) + width), len(rows) * width

    def logits(self, rows: Sequence[Row]) -> Logits:
        """See `Reader`."""
        sources = list(dict.fromkeys(row.source for row in rows))
        tokens, mask = _padded(sources, self.model.device)
        encoder: Any = self.model.get_encoder()
        with model_lock(self.model):
            reset_state(self.model)
            read = encoder(input_ids=tokens, attention_mask=mask)
            number = {source: i for i, source in enumerate(sources)}
            of = torch.tensor([number[row.source] for row in rows], device=tokens.device)
            # The encoder's own kind of output: some decoders read more of it (NLLB-MoE).
            read.last_hidden_state = read.last_hidden_state[of]
            # The tokens, too: without them FSMT masks nothing.
            logits = self.model(
                input_ids=tokens[of],
                encoder_outputs=read,
                attention_mask=mask[of],
                decoder_input_ids=_padded([row.tokens for row in rows], self.model.device)[0],
                use_cache=False,
            ).logits
        return _flat(logits, [list(row.places) for row in rows])


def _common(sequences: Sequence[Sequence[int]]) -> int:
    """How many tokens all of these begin with alike."""
    return sum(1 for _ in takewhile(lambda tokens: len(set(tokens)) == 1, zip(*sequences, strict=False)))


def _padded(sequences: Sequence[Sequence[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences as rows, filled up at their ends by what no mask lets through, and that mask."""
    width = max(map(len, sequences))
    tokens = torch.zeros(len(sequences), width, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for i, sequence in enumerate(sequences):
        tokens[i, : len(sequence)] = torch.tensor(sequence)
        mask[i, : len(sequence)] = 1
    return tokens.to(device), mask.to(device)


def _flat(logits: torch.Tensor, places: Sequence[Sequence[int]]) -> Logits:
    """(rows, width, vocabulary) as (rows × width, vocabulary), and the places of each row in it."""
    width = logits.shape[1]
    return logits.flatten(0, 1), [
        [row * width + place for place in asked] for row, asked in enumerate(places)
    ]
