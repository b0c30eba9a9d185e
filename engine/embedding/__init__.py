"""Texts in, vectors out."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from tokenizers.normalizers import Lowercase
from torch.nn import functional

from engine.embedding import sentence
from engine.embedding.encoding import Encoder
from engine.embedding.pooling import pool
from engine.errors import ConfigurationError
from engine.loading import Loaded
from engine.options import EmbeddingOptions
from engine.prompting.tokenization import around
from engine.text import encodable

DEFAULTS = EmbeddingOptions()
# Of several lengths, one longer than a window of a trial.
_EXAMPLES = ["A text.", "A longer text.", "one two three four five six " * 4]


class Embedder:
    """Makes vectors with a loaded model; a sentence-transformers folder's own settings are the default.

    Raises:
        Unsupported: a model that gives no hidden states, or a folder that asks for what is not common.
    """

    def __init__(self, loaded: Loaded) -> None:
        self.settings = sentence.read(loaded.options) if loaded.options else sentence.SentenceSettings()
        self.tokenizer = loaded.tokenizer
        self._around = around(self.tokenizer)
        examples = self.tokenizer(_EXAMPLES)["input_ids"]
        pad = self.tokenizer.pad_token_id or 0
        # A vocabulary may have no word of these.
        self.encoder = Encoder(loaded.model, pad, [tokens or [pad] for tokens in examples])

    def embed(
        self,
        texts: Sequence[str] | Sequence[Sequence[int]],
        options: EmbeddingOptions = DEFAULTS,
        kind: str | None = None,
    ) -> np.ndarray:
        """A vector for each text, which does not depend on the others.

        Args:
            texts: or token ids, which are read as they are, without a prompt.
            kind: "query", "document" or another prompt of the model's folder; None: its default prompt.

        Returns:
            (texts, dim) in float32. The tokens of a text without any pool to zeros.

        Raises:
            ConfigurationError: a `kind` that there is not, or a `max_length` that leaves no room for a text.
        """
        given = _listed(texts)
        plain = all(isinstance(text, str) for text in given)
        prompt = self._prompt(options, kind) if plain else ""
        tokens = self.tokens(given, options, kind) if plain else self._known(given, options.max_length)
        modes = self.settings.poolings if options.pooling == "auto" else (options.pooling,)
        start = 0 if self.settings.include_prompt else self._prompt_length(prompt, options.max_length)
        with torch.inference_mode():
            vectors = self._pooled(tokens, modes, start=start)
            for module in self.settings.modules:
                if module is not functional.normalize or options.normalize is not False:
                    vectors = module(vectors)
            vectors = vectors[:, : self.settings.dimensions]
            return (functional.normalize(vectors) if options.normalize else vectors).numpy()

    def tokens(
        self, texts: Sequence[str], options: EmbeddingOptions = DEFAULTS, kind: str | None = None
    ) -> list[list[int]]:
        """What `embed` reads of each text.

        Raises:
            ConfigurationError: as `embed`.
        """
        prompt = self._prompt(options, kind)
        return self._tokens([prompt + text for text in _listed(texts)], options.max_length)

    def hidden_states(
        self, texts: Sequence[str], layer: int = -1, reduction: Literal["mean", "sum"] | None = "mean"
    ) -> np.ndarray | list[np.ndarray]:
        """What a layer makes of each text, of its tokens and of those that the tokenizer puts around them.

        Args:
            layer: 0 is the embeddings, 1 the first layer's output, -1 the last hidden states.
            reduction: what is made of a text's tokens; None leaves them as they are.

        Returns:
            (texts, dim), or without a reduction a list with (tokens, dim) for each text; float32.

        Raises:
            ConfigurationError: a layer that the model does not have.
        """
        tokens = self._tokens(_listed(texts), None)
        if reduction is not None:
            return self._pooled(tokens, [reduction], layer=layer).numpy()
        found = [np.zeros(0)] * len(texts)
        for batch, states in self.encoder.run(tokens, layer):
            for i, state in zip(batch, states, strict=True):
                found[i] = state.float().cpu().numpy()
        return found

    def _pooled(
        self, tokens: Sequence[Sequence[int]], modes: Sequence[str], start: int = 0, layer: int = -1
    ) -> torch.Tensor:
        rows = [torch.zeros(0)] * len(tokens)
        for batch, states in self.encoder.run(tokens, layer):
            vectors = torch.stack([pool(state, modes, start) for state in states]).cpu()
            for i, vector in zip(batch, vectors, strict=True):
                rows[i] = vector
        return torch.stack(rows) if rows else torch.zeros(0, len(modes) * self.encoder.width)

    def _tokens(self, texts: list[str], max_length: int | None) -> list[list[int]]:
        if not texts:
            return []
        texts = [encodable(text) for text in texts]
        if self.settings.lower_case:
            texts = [Lowercase().normalize_str(text) for text in texts]
        limit = self._limit(max_length)
        # Not cut by the tokenizer: that is a setting of it, and others read with it at the same time.
        read = self.tokenizer(texts, verbose=False, return_attention_mask=False, return_token_type_ids=False)[
            "input_ids"
        ]
        return [self._cut(ids, limit) for ids in read]

    def _cut(self, ids: list[int], limit: int) -> list[int]:
        """A text's tokens, begun once; of too many the first, between what is put around a text."""
        bos = self.tokenizer.bos_token_id
        ids = ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids
        if len(ids) <= limit:
            return ids
        before, after = self._around
        start, end = len(before), len(ids) - len(after)
        if (room := limit - len(before) - len(after)) < 0:
            raise ConfigurationError(
                f"max_length {limit} is no more than the special tokens of a text: raise it"
            )
        left = self.tokenizer.truncation_side == "left"
        kept = ids[max(start, end - room) : end] if left else ids[start : min(end, start + room)]
        return [*before, *kept, *after]

    def _known(self, given: Sequence[Sequence[int]], max_length: int | None) -> list[list[int]]:
        """Token ids that are given, cut as those of a text are."""
        if not all(0 <= token < self.encoder.vocabulary for ids in given for token in ids):
            raise ConfigurationError(
                f"there are token ids that this model does not have: take 0 to {self.encoder.vocabulary - 1}"
            )
        return [list(ids[: self._limit(max_length)]) for ids in given]

    def _limit(self, max_length: int | None) -> int:
        # A tokenizer without a bound says 10**30.
        return min(
            max_length or self.settings.max_length or self.tokenizer.model_max_length,
            self.encoder.window or 10**9,
        )

    def _prompt(self, options: EmbeddingOptions, kind: str | None) -> str:
        prefixes = {"query": options.query_prefix, "document": options.document_prefix}
        prompts = {"query": "", "document": ""} | dict(self.settings.prompts)
        prompts |= {name: prefix for name, prefix in prefixes.items() if prefix is not None}
        name = kind if kind is not None else self.settings.default_prompt
        if name is not None and name not in prompts:
            raise ConfigurationError(f"there is no prompt {name!r}: this model has {', '.join(prompts)}")
        return "" if name is None else prompts[name]

    def _prompt_length(self, prompt: str, max_length: int | None) -> int:
        if not prompt:
            return 0
        [tokens] = self._tokens([prompt], max_length)
        ends = tokens and tokens[-1] in self.tokenizer.all_special_ids
        return len(tokens) - bool(ends)


def _listed(texts: Sequence[Any]) -> list[Any]:
    if isinstance(texts, str):
        raise TypeError("a list of texts is needed, not one text: [text]")
    return list(texts)
