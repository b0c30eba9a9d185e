"""Computes the embeddings of texts."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from tokenizers.normalizers import Lowercase
from torch.nn import functional

from engine.embedding.hidden_states import HiddenStateReader
from engine.embedding.pooling import pool
from engine.embedding.sentence_settings import SentenceSettings, read_settings
from engine.errors import ConfigurationError
from engine.loading import Loaded
from engine.options import EmbeddingOptions
from engine.prompting.tokenization import special_tokens_around
from engine.text import encodable, listed

DEFAULTS = EmbeddingOptions()
# Of different lengths, one longer than the narrowed windows of a trial.
_EXAMPLES = ["A text.", "A longer text.", "one two three four five six " * 4]


class Embedder:
    """Computes embeddings with a loaded model, by default with its sentence-transformers settings, if any.

    Raises:
        Unsupported: the model has no hidden states, or its folder has an unsupported module or setting.
        LoadError: a file of its folder cannot be read.
    """

    def __init__(self, loaded: Loaded) -> None:
        self.settings = read_settings(loaded.options) if loaded.options else SentenceSettings()
        self.tokenizer = loaded.tokenizer
        self._special_tokens = special_tokens_around(self.tokenizer)
        examples = self.tokenizer(_EXAMPLES)["input_ids"]
        pad = self.tokenizer.pad_token_id or 0
        # The tokenizer may know none of the examples.
        self.reader = HiddenStateReader(loaded.model, pad, [tokens or [pad] for tokens in examples])

    def embed(
        self,
        texts: Sequence[str] | Sequence[Sequence[int]],
        options: EmbeddingOptions = DEFAULTS,
        kind: str | None = None,
    ) -> np.ndarray:
        """The embedding of each text, independent of the other texts.

        Args:
            texts: texts, or the token ids of texts, which get no prompt.
            kind: name of the prompt: "query", "document" or another one of the model's folder; None for its
                default prompt.

        Returns:
            float32 (texts, dim); zeros for a text without tokens.

        Raises:
            ConfigurationError: there is no such prompt, `max_length` leaves no room for a text, `dimensions`
                is more than there are, or a token id is not in the vocabulary.
            PromptError: `texts` is no list of texts.
        """
        inputs = listed(texts)
        are_texts = all(isinstance(text, str) for text in inputs)
        prompt = self._prompt(options, kind) if are_texts else ""
        if are_texts:
            tokens = self.token_ids(inputs, options, kind)
        else:
            tokens = self._checked_ids(inputs, options.max_length)
        modes = self.settings.poolings if options.pooling == "auto" else (options.pooling,)
        start = 0 if self.settings.include_prompt else self._prompt_length(prompt, options.max_length)
        with torch.inference_mode():
            embeddings = self._pooled(tokens, modes, start=start)
            for module in self.settings.modules:
                if module is not functional.normalize or options.normalize is not False:
                    embeddings = module(embeddings)
            embeddings = embeddings[:, : self.settings.dimensions]
            normalize = options.normalize
            if options.dimensions is not None:
                embeddings = self._shortened(embeddings, options.dimensions)
                if normalize is None:
                    normalize = functional.normalize in self.settings.modules
            return (functional.normalize(embeddings) if normalize else embeddings).numpy()

    def _shortened(self, embeddings: torch.Tensor, dimensions: int) -> torch.Tensor:
        if dimensions > embeddings.shape[1]:
            raise ConfigurationError(
                f"dimensions {dimensions} is more than the {embeddings.shape[1]} numbers of an embedding: "
                "lower it"
            )
        return embeddings[:, :dimensions]

    def token_ids(
        self, texts: Sequence[str], options: EmbeddingOptions = DEFAULTS, kind: str | None = None
    ) -> list[list[int]]:
        """The token ids that `embed` reads of each text.

        Raises:
            ConfigurationError: there is no such prompt, or `max_length` leaves no room for a text.
            PromptError: `texts` is no list of texts.
        """
        prompt = self._prompt(options, kind)
        return self._tokenized([prompt + text for text in listed(texts)], options.max_length)

    def hidden_states(
        self, texts: Sequence[str], layer: int = -1, reduction: Literal["mean", "sum"] | None = "mean"
    ) -> np.ndarray | list[np.ndarray]:
        """The hidden states of each text, including the special tokens that the tokenizer adds.

        Args:
            layer: 0 for the token embeddings, 1 for the first layer's output, -1 for the last hidden states.
            reduction: how the states of a text's tokens are reduced to one; None keeps all.

        Returns:
            float32 (texts, dim); without a reduction a list of float32 (tokens, dim), one per text.

        Raises:
            ConfigurationError: the model does not have the layer, or an unknown reduction.
            PromptError: `texts` is no list of texts.
        """
        if reduction not in (None, "mean", "sum"):
            raise ConfigurationError(f"there is no reduction {reduction!r}: use mean, sum or None")
        tokens = self._tokenized(listed(texts), None)
        if reduction is not None:
            return self._pooled(tokens, [reduction], layer=layer).numpy()
        found = [np.zeros(0)] * len(texts)
        for batch, states in self.reader.run(tokens, layer):
            for i, state in zip(batch, states, strict=True):
                found[i] = state.float().cpu().numpy()
        return found

    def _pooled(
        self, tokens: Sequence[Sequence[int]], modes: Sequence[str], start: int = 0, layer: int = -1
    ) -> torch.Tensor:
        result = [torch.zeros(0)] * len(tokens)
        for batch, states in self.reader.run(tokens, layer):
            embeddings = torch.stack([pool(state, modes, start) for state in states]).cpu()
            for i, embedding in zip(batch, embeddings, strict=True):
                result[i] = embedding
        return torch.stack(result) if result else torch.zeros(0, len(modes) * self.reader.width)

    def _tokenized(self, texts: list[str], max_length: int | None) -> list[list[int]]:
        if not texts:
            return []
        texts = [encodable(text) for text in texts]
        if self.settings.lower_case:
            texts = [Lowercase().normalize_str(text) for text in texts]
        limit = self._max_tokens(max_length)
        # The tokenizer's truncation is a setting of it, and other threads may use it at the same time.
        read = self.tokenizer(texts, verbose=False, return_attention_mask=False, return_token_type_ids=False)[
            "input_ids"
        ]
        return [self._truncate(ids, limit) for ids in read]

    def _truncate(self, ids: list[int], limit: int) -> list[int]:
        """Truncates a text's tokens to a limit, except its special tokens; removes a second bos token."""
        bos = self.tokenizer.bos_token_id
        ids = ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids
        if len(ids) <= limit:
            return ids
        before, after = self._special_tokens
        start, end = len(before), len(ids) - len(after)
        if (room := limit - len(before) - len(after)) < 0:
            raise ConfigurationError(
                f"max_length {limit} is no more than the special tokens of a text: raise it"
            )
        left = self.tokenizer.truncation_side == "left"
        kept = ids[max(start, end - room) : end] if left else ids[start : min(end, start + room)]
        return [*before, *kept, *after]

    def _checked_ids(self, inputs: Sequence[Sequence[int]], max_length: int | None) -> list[list[int]]:
        """Truncates given token ids.

        Raises:
            ConfigurationError: one is not in the vocabulary.
        """
        if not all(0 <= token < self.reader.vocabulary for ids in inputs for token in ids):
            raise ConfigurationError(
                f"there are token ids outside the vocabulary: use 0 to {self.reader.vocabulary - 1}"
            )
        return [list(ids[: self._max_tokens(max_length)]) for ids in inputs]

    def _max_tokens(self, max_length: int | None) -> int:
        # A tokenizer without a limit has 10**30.
        return min(
            max_length or self.settings.max_length or self.tokenizer.model_max_length,
            self.reader.context_length or 10**9,
        )

    def _prompt(self, options: EmbeddingOptions, kind: str | None) -> str:
        prefixes = {"query": options.query_prefix, "document": options.document_prefix}
        prompts = {"query": "", "document": ""} | dict(self.settings.prompts)
        prompts |= {name: prefix for name, prefix in prefixes.items() if prefix is not None}
        name = kind if kind is not None else self.settings.default_prompt
        if name is not None and name not in prompts:
            raise ConfigurationError(f"there is no kind {name!r}: this model has {', '.join(prompts)}")
        return "" if name is None else prompts[name]

    def _prompt_length(self, prompt: str, max_length: int | None) -> int:
        if not prompt:
            return 0
        [tokens] = self._tokenized([prompt], max_length)
        ends = tokens and tokens[-1] in self.tokenizer.all_special_ids
        return len(tokens) - bool(ends)
