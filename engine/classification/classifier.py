"""Scores and labels texts and pairs of texts, each with the numbers it has alone."""

import copy
import inspect
import logging
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from tokenizers.normalizers import Lowercase

from engine import trial
from engine.batching import Batching, length_batches, run_or_halve, token_budget
from engine.classification.head_settings import read_settings
from engine.classification.logit_score import PairTemplate
from engine.contract import Classified
from engine.errors import AdapterError, ConfigurationError, GenerationError, PromptError, Unsupported
from engine.loading import Loaded
from engine.model_properties import longest_text, longrope_threshold, vocabulary_size
from engine.module_state import model_lock, reset_state
from engine.options import GenerationOptions
from engine.progress import progress_bar
from engine.prompting.prompter import Prompter, to_chat
from engine.scoring.batching import last_logits
from engine.scoring.logits_readers import ScoringInput
from engine.text import encodable
from engine.types import Request

logger = logging.getLogger(__name__)

# Of different lengths, one longer than the narrowed windows of a trial.
_EXAMPLES = ["A text.", "A longer text.", "one two three four five six " * 4]
# A tokenizer without a limit has 10**30.
_NO_LIMIT = 10**9


@dataclass(frozen=True, slots=True)
class Classification:
    """What a classification head says of a text or a pair of texts.

    Attributes:
        logits: the numbers that the head gives, one for each label; a single one is a score.
        scores: the logits by the activation of the model's folder, as `CrossEncoder.predict` gives them: by
            default the sigmoid of a single one, and several as they are.
        labels: the probability of each label by its name, by softmax, or by sigmoid where a text may have
            several labels; empty for a head that gives scores.
        num_tokens: the tokens that were read.
        error: why there are no numbers, or None.
    """

    logits: tuple[float, ...]
    scores: tuple[float, ...]
    labels: Mapping[str, float] = field(default_factory=dict)
    num_tokens: int = 0
    error: AdapterError | None = None


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A text or a pair: its token ids, and which of the two each belongs to, if the model reads that."""

    tokens: Sequence[int]
    types: Sequence[int]


class Classifier:
    """A model with a classification head, or one whose logits are a score, as a function of texts.

    Attributes:
        settings: how its numbers are meant.
        batching: how texts share a batch: the first of "padded", "equal_length" and "single" that gives some
            examples the numbers they have alone; "packed" for a language model, whose batches
            `engine.scoring` makes.

    Raises:
        Unsupported: the model fails by itself, or its folder has a setting that is not supported.
        LoadError: a file of its folder cannot be read.
    """

    def __init__(self, loaded: Loaded) -> None:
        self.model = loaded.model
        self.settings = read_settings(loaded.options, self.model.config)
        # Truncation is a setting of the tokenizer, which other threads may use at the same time.
        self._tokenizer, self._truncating = copy.deepcopy(loaded.tokenizer), threading.Lock()
        limits = (self._tokenizer.model_max_length, longest_text(self.model), self.settings.max_length)
        self._limit = min(limit or _NO_LIMIT for limit in limits)
        self._prompter = Prompter(
            loaded.tokenizer,
            self.model.config,
            self._limit if self._limit < _NO_LIMIT else None,
            answered=False,
        )
        parameters = inspect.signature(self.model.forward).parameters
        named = self._tokenizer.model_input_names
        self._typed = "token_type_ids" in parameters and "token_type_ids" in named
        self._extra = {"use_cache": False} if "use_cache" in parameters else {}
        self._budget = token_budget(self.model.device)
        score = self.settings.logit_score
        self._pairs = (
            None
            if score is None or score.arguments is None
            else PairTemplate(
                self._tokenizer, score.arguments, score.in_parts, self.settings.prompt, self._limit
            )
        )
        self.batching: Batching = self._find_batching() if score is None else "packed"
        logger.info("%s classifies texts %s", type(self.model).__name__, self.batching)

    def classify(self, texts: Sequence[Classified]) -> list[Classification]:
        """What the head says of each text, independent of the others.

        Args:
            texts: a text, a pair of texts, or a conversation: by the chat template if there is one, else its
                last message, to which an answer is the second text of a pair.

        Returns:
            One for each text, in their order; a failed one carries its error.
        """
        found: dict[int, Classification] = {}
        encoded: dict[int, _Encoded] = {}
        for i, text in enumerate(texts):
            try:
                encoded[i] = self._encode(text)
            except AdapterError as error:
                found[i] = Classification((), (), error=error)
        run = self._by_head if self.settings.logit_score is None else self._by_logits
        for batch, logits in run(encoded):
            if isinstance(logits, AdapterError):
                found[batch[0]] = Classification((), (), error=logits)
            else:
                counts = [len(encoded[i].tokens) for i in batch]
                found |= zip(batch, self._meant(logits, counts), strict=True)
        return [found[i] for i in range(len(texts))]

    def _by_head(
        self, encoded: Mapping[int, _Encoded]
    ) -> Iterator[tuple[Sequence[int], torch.Tensor | AdapterError]]:
        """Batches of texts with the numbers of the head, (texts, numbers), or the error of a text."""
        order = list(encoded)
        longrope = longrope_threshold(self.model) or math.inf
        lengths = [len(text.tokens) for text in encoded.values()]

        def run(batch: Sequence[int]) -> torch.Tensor:
            return self._logits([encoded[i] for i in batch])

        with progress_bar("classifying", len(order), "text") as bar:
            for whole in length_batches(lengths, self.batching, self._budget, longrope):
                for batch, logits in run_or_halve([order[place] for place in whole], run):
                    if isinstance(logits, Exception):
                        reason = f"{type(logits).__name__}: {logits}"
                        yield batch, GenerationError(f"the model failed on this text: {reason}")
                    else:
                        yield batch, logits
                    bar.update(len(batch))

    def _by_logits(
        self, encoded: Mapping[int, _Encoded]
    ) -> Iterator[tuple[Sequence[int], torch.Tensor | AdapterError]]:
        """Texts with the score that the logits after each are, (1, 1), or the error of a text."""
        assert self.settings.logit_score is not None
        inputs = [ScoringInput(tuple(text.tokens), (), (i, len(text.tokens))) for i, text in encoded.items()]
        logits = last_logits(self.model, inputs, self.settings.logit_score.tokens)
        for i, one in zip(encoded, logits, strict=True):
            yield (
                [i],
                one if isinstance(one, AdapterError) else (one[:1] - one[1:].sum()).reshape(1, 1),
            )

    def _meant(self, logits: torch.Tensor, counts: Sequence[int]) -> Iterator[Classification]:
        """The results of the rows of logits, (texts, numbers)."""
        scores = self.settings.activation(logits).tolist()
        probabilities = self.settings.probabilities(logits)
        rows = [()] * len(scores) if probabilities is None else probabilities.tolist()
        for numbers, score, row, count in zip(logits.tolist(), scores, rows, counts, strict=True):
            if not all(map(math.isfinite, numbers)):
                yield Classification((), (), error=GenerationError("the model gives no number for this text"))
            else:
                labels = dict(zip(self.settings.labels, row, strict=True)) if row else {}
                yield Classification(tuple(numbers), tuple(score), labels, count)

    def _encode(self, text: Classified) -> _Encoded:
        """The token ids of a text, a pair or a conversation.

        Raises:
            PromptError: it has no tokens, or token ids outside the vocabulary.
            ConfigurationError: an option that this model cannot follow.
        """
        if isinstance(text, Request):
            if text.prompt is None and self._pairs is None and self._has_template(text.options):
                tokens = self._prompter.encode(text.messages, text.options)
                return _Encoded(tokens, [0] * len(tokens))
            if isinstance(text.prompt, tuple):
                if not all(0 <= token < vocabulary_size(self.model) for token in text.prompt):
                    raise PromptError("the text has token ids outside the vocabulary")
                return _Encoded(text.prompt, [0] * len(text.prompt))
            text = _last_message(text) if text.prompt is None else text.prompt
        first, *second = [text] if isinstance(text, str) else text
        if self._pairs is not None:
            return self._pair(first, *second)
        return self._tokenized(*(encodable(one) for one in (self.settings.prompt + first, *second)))

    def _tokenized(self, *texts: str) -> _Encoded:
        if self.settings.lower_case:
            texts = tuple(map(Lowercase().normalize_str, texts))
        limit = {"truncation": True, "max_length": self._limit} if self._limit < _NO_LIMIT else {}
        with self._truncating:
            # As a batch of one: alone, an empty second text would count as none.
            batch = [[text] for text in texts]
            found = self._tokenizer(*batch, return_token_type_ids=self._typed, verbose=False, **limit)
        [tokens] = found["input_ids"]
        if not tokens:
            raise PromptError("the text is empty: give it one")
        if len(tokens) == self._limit and (known := found.encodings) and known[0].overflowing:
            self._warn_of_cut()
        return _Encoded(tokens, found["token_type_ids"][0] if self._typed else [])

    def _pair(self, query: str, document: str | None = None) -> _Encoded:
        if document is None:
            raise PromptError("this reranker reads pairs: give it a query and a document")
        assert self._pairs is not None
        texts = (query, document)
        if self.settings.lower_case:
            texts = (Lowercase().normalize_str(query), Lowercase().normalize_str(document))
        tokens, cut = self._pairs.encode(*texts)
        if cut:
            self._warn_of_cut()
        return _Encoded(tokens, [0] * len(tokens))

    def _warn_of_cut(self) -> None:
        logger.warning("a text is longer than %d tokens: its end is not read", self._limit)

    def _has_template(self, options: GenerationOptions) -> bool:
        return bool(options.chat_template or self._prompter.tokenizer.chat_template)

    def _logits(self, batch: Sequence[_Encoded]) -> torch.Tensor:
        """The logits of a batch, float32 (texts, numbers) on the CPU."""
        lengths = torch.tensor([len(text.tokens) for text in batch])
        longest = int(lengths.max())
        device = self.model.device
        with torch.inference_mode(), model_lock(self.model), self._pad_token(batch) as pad:
            reset_state(self.model)
            ids = [[*text.tokens, *[pad] * (longest - len(text.tokens))] for text in batch]
            given = {
                "input_ids": torch.tensor(ids, device=device),
                "attention_mask": (torch.arange(longest) < lengths[:, None]).long().to(device),
            }
            if self._typed:
                types = [[*text.types, *[0] * (longest - len(text.tokens))] for text in batch]
                given["token_type_ids"] = torch.tensor(types, device=device)
            logits: torch.Tensor = self.model(**given, **self._extra).logits
            return logits.float().cpu()

    @contextmanager
    def _pad_token(self, batch: Sequence[_Encoded]) -> Iterator[int]:
        """The token id that fills short texts.

        The head of a decoder reads the last token that is not `pad_token_id`. A model without one refuses
        batches: in a batch it is one with which no text ends.
        """
        whole = self.model.config
        configs = {id(config): config for config in (whole, whole.get_text_config())}.values()
        size = vocabulary_size(self.model)
        own = whole.get_text_config().pad_token_id
        if own is not None and 0 <= own < size:
            yield own
            return
        before = [config.pad_token_id for config in configs]
        free = min(set(range(len(batch) + 1)) - {text.tokens[-1] for text in batch})
        if free >= size:
            raise Unsupported("each token of the vocabulary ends a text of this batch")
        try:
            for config in configs:
                config.pad_token_id = free if len(batch) > 1 else config.pad_token_id
            yield free
        finally:
            for config, token in zip(configs, before, strict=True):
                config.pad_token_id = token

    def _find_batching(self) -> Batching:
        examples = [self._encode(text) for text in _EXAMPLES]
        self._alone(examples)  # It raises, if the model fails by itself.
        if not trial.forbids_padding(self.model) and self._is_correct("padded", examples):
            return "padded"
        length = min(len(text.tokens) for text in examples)
        cut = [_Encoded(text.tokens[:length], text.types[:length]) for text in examples]
        return "equal_length" if self._is_correct("equal_length", cut) else "single"

    def _is_correct(self, batching: Batching, examples: Sequence[_Encoded]) -> bool:
        """Whether examples in one batch have the logits that they have alone."""
        try:
            with trial.narrowed_windows(self.model):
                found, expected = list(self._logits(examples)), self._alone(examples)
            return trial.matches(self.model, found, expected, lambda: self._alone(examples))
        except Exception as error:  # Third-party code: any exception is possible.
            logger.debug("%s does not classify texts %s: %s", type(self.model).__name__, batching, error)
            return False

    def _alone(self, texts: Sequence[_Encoded]) -> list[torch.Tensor]:
        """The logits of each text by itself.

        Raises:
            Unsupported: the model fails.
        """
        try:
            return [self._logits([text])[0] for text in texts]
        except Exception as error:  # Third-party code: any exception is possible.
            reason = f"{type(error).__name__}: {error}"
            raise Unsupported(
                f"{type(self.model).__name__} cannot classify: it fails by itself ({reason})"
            ) from None


def _last_message(request: Request) -> str | tuple[str, str]:
    """The last message; of an answer, the pair of its question and the answer.

    Raises:
        PromptError: there is no text.
        ConfigurationError: a system prompt, which is no part of it.
    """
    if request.options.system_prompt:
        raise ConfigurationError(
            "system_prompt: this model has no chat template and reads the last message alone: leave it out"
        )
    chat = to_chat(request.messages, encodable)
    if chat[-1]["role"] == "assistant" and len(chat) > 1:
        return chat[-2]["content"], chat[-1]["content"]
    return chat[-1]["content"]
