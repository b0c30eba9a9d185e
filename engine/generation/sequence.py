"""The state of a sequence: its prompt, the tokens generated so far, and whether it has ended."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from transformers import PreTrainedModel

from engine.confidence import TOP_K, Evidence
from engine.errors import GenerationError
from engine.generation.prompt_lookup import PromptLookup
from engine.generation.sampling import SampledToken, Sampler, TopTokens, sample
from engine.model_properties import decoder_start
from engine.options import GenerationOptions

_NOT_FINITE = (
    "the model gave logits that are no numbers: where dtype is float16, set it to bfloat16 or float32, else "
    "check the model's weights"
)


@dataclass(frozen=True, slots=True)
class TokenizedRequest:
    """A request as token ids: what one sequence starts from.

    Attributes:
        prompt: token ids of the prompt.
        max_new_tokens: the most tokens to generate; with the prompt they fit the model's context length.
        options: how tokens are sampled.
        stopping: makes the stopping criterion of one sequence: called with each generated token in order, it
            returns True to end the sequence. None: only end tokens and the length end it.
        end_tokens: tokens that end the sequence, besides the model's EOS tokens.
        is_chat: whether it is a conversation, not a plain prompt. Then the leading and trailing whitespace
            of the answer is removed.
    """

    prompt: Sequence[int]
    max_new_tokens: int
    options: GenerationOptions
    stopping: Callable[[], Callable[[int], bool]] | None = None
    is_chat: bool = True
    end_tokens: frozenset[int] = frozenset()


@dataclass(slots=True)
class Generated:
    """What was generated for a sequence.

    Attributes:
        token_ids: the generated tokens, the EOS token included.
        logprobs: natural log-probability of each, by the model's own logits.
        top_logprobs: the most likely tokens at each position, where the options ask for them.
        likeliest: log-probabilities of the most likely tokens at each position, where the confidence needs
            them.
        margins: the gap between the two most likely tokens at each position, where the confidence needs it.
        entropies: the entropy at each position in nats, where the confidence needs it.
        stopped: whether a token or stop string ended the sequence, not its length.
        error: why there is no answer; None where there is one.
    """

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[TopTokens] = field(default_factory=list)
    likeliest: list[list[float]] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)
    stopped: bool = False
    error: GenerationError | None = None

    def evidence(self, first: int = 0) -> Evidence:
        """What the confidence is computed from: what was recorded of the tokens from `first` on."""
        first_top = self.likeliest[first] if first < len(self.likeliest) else ()
        return Evidence(self.logprobs[first:], first_top, self.margins[first:], self.entropies[first:])


class SequenceState:
    """A sequence, from waiting to ended.

    Attributes:
        request: what it started from.
        tokens: token ids of the decoder: the prompt (for an encoder-decoder model the start token), then the
            generated tokens.
        generated: the generated tokens and what was recorded of them.
        sampler: chooses the next token.
        lookup: drafts the next tokens.
        running: False once the sequence has ended.
        cached_tokens: tokens of the prompt that were in the KV cache when the sequence got its slot.
    """

    def __init__(self, request: TokenizedRequest, model: PreTrainedModel, eos: frozenset[int]) -> None:
        self.request = request
        self.cached_tokens = 0
        self._end_tokens = eos | request.end_tokens
        penalty = model.generation_config.repetition_penalty or 1.0
        self.sampler = Sampler(request.options, penalty, self._end_tokens)
        seq2seq = model.config.is_encoder_decoder
        self._prompt = [decoder_start(model)] if seq2seq else list(request.prompt)
        self.restart()

    def restart(self) -> None:
        """Discards what was generated."""
        self.generated = Generated()
        self.tokens = list(self._prompt)
        self.lookup = PromptLookup(self.tokens)
        self.sampler.restart(self._prompt)
        self.running = True
        self._stops = self.request.stopping() if self.request.stopping else None

    @property
    def max_length(self) -> int:
        """The most tokens that prompt and answer have together."""
        return len(self.request.prompt) + self.request.max_new_tokens

    def append(self, sampled: SampledToken) -> None:
        """Appends a token, and ends the sequence if it is the last one."""
        generated, options = self.generated, self.request.options
        if "first_top" in self.sampler.evidence:
            generated.likeliest.append([logprob for _, logprob in sampled.top[:TOP_K]])
        if sampled.margin is not None:
            generated.margins.append(sampled.margin)
        if sampled.entropy is not None:
            generated.entropies.append(sampled.entropy)
        if options.top_logprobs:
            generated.top_logprobs.append(sampled.top[: options.top_logprobs])
        generated.token_ids.append(sampled.token)
        generated.logprobs.append(sampled.logprob)
        self.tokens.append(sampled.token)
        self.sampler.accept(sampled.token)
        stops = self._stops is not None and self._stops(sampled.token)
        generated.stopped = sampled.token in self._end_tokens or stops
        self.running = not generated.stopped and len(generated.token_ids) < self.request.max_new_tokens

    def fail(self, error: GenerationError) -> None:
        """Ends the sequence without an answer."""
        self.generated.error = error
        self.running = False


def extend(
    sequences: Sequence[SequenceState],
    logits: torch.Tensor,
    scores: torch.Tensor | None = None,
    drafts: Sequence[Sequence[int]] = (),
) -> None:
    """Samples the next token of each running sequence and appends it; a sequence without finite logits fails.

    Where the token is the first of the sequence's draft, the next one is sampled, too, and so on. If the
    logits of a draft are not finite, the sequence gets no token, because a NaN spreads to the whole chunk,
    and drafting ends.

    Args:
        logits: (rows, vocabulary) the model's logits after each sequence and each token of its draft.
        scores: (rows, vocabulary) the logits to choose by, where the checkpoint forces or suppresses tokens;
            None: `logits`.
        drafts: of each sequence; none of them has one if left out.
    """
    drafts = drafts or [()] * len(sequences)
    samplers = [
        sequence.sampler if sequence.running else None
        for sequence, draft in zip(sequences, drafts, strict=True)
        for _ in range(1 + len(draft))
    ]
    sampled = iter(sample(samplers, logits, scores))
    for sequence, draft in zip(sequences, drafts, strict=True):
        rows = list(islice(sampled, 1 + len(draft)))
        tokens = [token for token in rows if token is not None]
        if len(tokens) == len(rows):
            _append(sequence, tokens, draft)
        elif draft:
            sequence.lookup.stop()
        elif sequence.running:
            sequence.fail(GenerationError(_NOT_FINITE))


def _append(sequence: SequenceState, tokens: Sequence[SampledToken], draft: Sequence[int]) -> None:
    """Appends sampled tokens as long as the token before each is that of the draft."""
    for token, drafted in zip(tokens, [*draft, None], strict=True):
        sequence.append(token)
        if not sequence.running or token.token != drafted:
            break
