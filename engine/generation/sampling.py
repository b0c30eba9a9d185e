"""The next token of each row: the one place where a token is chosen, and its log-probability is noted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    PreTrainedModel,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from engine.confidence import FIRST_TOP, Evidence
from engine.errors import GenerationError, Unsupported
from engine.generation.penalties import Penalties
from engine.options import GenerationOptions

_NO_NUMBERS = (
    "the model gave logits that are no numbers: where dtype is float16, set it to bfloat16 or float32, else "
    "check the model's weights"
)

# The most rows that are generated at a time.
MAX_ROWS = 32

# What transformers' filters are told of a row's tokens; they do not look at them.
_UNREAD: Any = torch.empty(1, 0, dtype=torch.long)

TopTokens = tuple[tuple[int, float], ...]


def decoder_start(model: PreTrainedModel) -> int:
    """The token that an encoder-decoder model's answers begin with, as transformers' `generate` finds it.

    Raises:
        Unsupported: the checkpoint names none.
    """
    settings = model.generation_config
    for token in (settings.decoder_start_token_id, settings.bos_token_id):
        if token is not None:
            return int(token)
    raise Unsupported("the model names no decoder_start_token_id: set it in its generation configuration")


@dataclass(frozen=True, slots=True)
class Row:
    """One sequence to generate.

    Attributes:
        prompt: token ids that the model reads.
        max_new_tokens: the most tokens to generate; prompt and these together fit the model's window.
        options: how a token is chosen.
        ending: makes what is called with each generated token, in order, and ends the row by True.
        trim: whether blanks around the answer are left out.
    """

    prompt: Sequence[int]
    max_new_tokens: int
    options: GenerationOptions
    ending: Callable[[], Callable[[int], bool]] | None = None
    trim: bool = True


@dataclass(slots=True)
class Generated:
    """What was generated for a row.

    Attributes:
        token_ids: the tokens, an end-of-sequence token included.
        logprobs: of each, by the model's own logits.
        top_logprobs: the likeliest tokens at each place, where the options ask for them.
        first_top: log-probabilities of the likeliest first tokens, where the confidence asks for them.
        stopped: whether the row ended by itself, not by its length.
        error: why the row has no answer.
    """

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[TopTokens] = field(default_factory=list)
    first_top: list[float] = field(default_factory=list)
    stopped: bool = False
    error: GenerationError | None = None

    @property
    def evidence(self) -> Evidence:
        """What a confidence is computed from."""
        return Evidence(self.logprobs, self.first_top)


class Decoding:
    """A row while it is generated.

    Attributes:
        tokens: what the decoder has read, and what was generated.
        live: False once the row has ended.
    """

    def __init__(self, row: Row, model: PreTrainedModel, eos: frozenset[int]) -> None:
        self.row = row
        self._eos = eos
        seq2seq = model.config.is_encoder_decoder
        self._read = [decoder_start(model)] if seq2seq else list(row.prompt)
        self._penalties = Penalties(
            row.options.repetition_penalty or model.generation_config.repetition_penalty or 1.0,
            row.options.frequency_penalty,
            row.options.presence_penalty,
        )
        self._warpers = _warpers(row.options) if row.options.sampled else None
        self.restart()

    def restart(self) -> None:
        """Forgets what was generated."""
        self.generated = Generated()
        self.tokens = list(self._read)
        self._penalties.restart(self._read)
        self.live = True
        self._ended = self.row.ending() if self.row.ending else None
        # On the CPU, whatever the model's device: a seed gives the same answer on each of them.
        self._generator = torch.Generator()
        if self.row.options.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(self.row.options.seed)

    @property
    def limit(self) -> int:
        """The most tokens that prompt and answer have together."""
        return len(self.row.prompt) + self.row.max_new_tokens

    @property
    def tops(self) -> int:
        """How many of the likeliest tokens are to be noted at this place."""
        first = FIRST_TOP.get(self.row.options.confidence, 0) if not self.generated.token_ids else 0
        return max(first, self.row.options.top_logprobs)

    @property
    def plain(self) -> bool:
        """Whether the likeliest token is taken as it is."""
        return self._warpers is None and not self._penalties

    def choose(self, scores: torch.Tensor) -> torch.Tensor:
        """The next token by the row's own options.

        Args:
            scores: (vocabulary,) logits, float32.

        Returns:
            () a token id.
        """
        scores = self._penalties(scores)
        if self._warpers is None:
            return scores.argmax()
        probabilities = self._warpers(_UNREAD, scores[None])[0].softmax(-1)
        # One number of the row's own generator a token, whatever the other rows are.
        mass = probabilities.cpu().double().cumsum(-1)
        drawn = torch.rand((), generator=self._generator, dtype=torch.float64)
        return torch.searchsorted(mass, drawn * mass[-1], right=True)

    def record(self, token: int, logprob: float, top: TopTokens) -> None:
        """Notes a chosen token, and whether the row has ended with it."""
        generated = self.generated
        if not generated.token_ids:
            generated.first_top = [value for _, value in top[: FIRST_TOP.get(self.row.options.confidence, 0)]]
        if self.row.options.top_logprobs:
            generated.top_logprobs.append(top[: self.row.options.top_logprobs])
        generated.token_ids.append(token)
        generated.logprobs.append(logprob)
        self.tokens.append(token)
        self._penalties.add(token)
        ended = self._ended is not None and self._ended(token)
        generated.stopped = token in self._eos or ended
        self.live = not generated.stopped and len(generated.token_ids) < self.row.max_new_tokens

    def fail(self, error: GenerationError) -> None:
        """Ends the row without an answer."""
        self.generated.error = error
        self.live = False


def choose(
    decodings: Sequence[Decoding], logits: torch.Tensor, scores: torch.Tensor | None = None
) -> torch.Tensor:
    """Chooses and notes the next token of each row that is live; one whose logits are no numbers fails.

    Args:
        logits: (rows, vocabulary) as the model gave them; log-probabilities are theirs.
        scores: (rows, vocabulary) what to choose by, where a checkpoint forces or forbids tokens.

    Returns:
        (rows,) the chosen tokens.
    """
    logits = logits.float()
    scores = logits if scores is None else scores.float()
    normaliser = logits.logsumexp(-1)
    chosen = _likeliest(scores)
    for i, (decoding, finite) in enumerate(zip(decodings, normaliser.isfinite().tolist(), strict=True)):
        if decoding.live and not finite:
            decoding.fail(GenerationError(_NO_NUMBERS))
        elif decoding.live and not decoding.plain:
            chosen[i] = decoding.choose(scores[i])
    logprobs = (logits.gather(1, chosen[:, None])[:, 0] - normaliser).tolist()
    tops = [decoding.tops if decoding.live else 0 for decoding in decodings]
    likeliest = logits.topk(min(max(tops), logits.shape[1])) if max(tops, default=0) else None
    for i, (decoding, token) in enumerate(zip(decodings, chosen.tolist(), strict=True)):
        if decoding.live:
            top: TopTokens = ()
            if likeliest and tops[i]:
                values = (likeliest.values[i, : tops[i]] - normaliser[i]).tolist()
                top = tuple(zip(likeliest.indices[i, : tops[i]].tolist(), values, strict=True))
            decoding.record(token, logprobs[i], top)
    return chosen


def _likeliest(scores: torch.Tensor) -> torch.Tensor:
    """(rows, vocabulary) → (rows,): `argmax`; on a CPU numpy's, which takes a tenth of the time."""
    if scores.device.type == "cpu":
        return torch.from_numpy(scores.numpy().argmax(-1))
    return scores.argmax(-1)


def _warpers(options: GenerationOptions) -> LogitsProcessorList:
    """transformers' own filters for a sampled row, in the order in which its `generate` applies them."""
    warpers: list[LogitsProcessor] = []
    if options.temperature not in (None, 1.0):
        warpers.append(TemperatureLogitsWarper(options.temperature))
    if options.top_k is not None:
        warpers.append(TopKLogitsWarper(options.top_k))
    if options.top_p is not None and options.top_p < 1:
        warpers.append(TopPLogitsWarper(options.top_p))
    if options.min_p is not None:
        warpers.append(MinPLogitsWarper(options.min_p))
    return LogitsProcessorList(warpers)
