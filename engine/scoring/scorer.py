"""Scores given texts as continuations of a prompt: their log-probabilities, without generating.

The boundary between prompt and candidate is that of lm-evaluation-harness, so that scores are the same
(`TemplateLM._encode_pair` and `HFLM._loglikelihood_tokens` there):

1. Trailing spaces of the prompt belong to the candidate: "Answer: " and "yes" are scored as "Answer:" and
   " yes". For a conversation the prompt is the text that the chat template writes, up to the answer.
2. Prompt and candidate are encoded as one text. Its tokens beyond the length of the encoded prompt are the
   candidate's; the model reads the prompt encoded by itself. The tokenizer adds its special tokens as usual,
   but not if the text begins with one. The candidate of an encoder-decoder is the decoder's target: it is
   encoded by itself, without special tokens.
3. An empty prompt becomes the bos token, or the eos token if there is no bos.
4. A plain prompt that is too long loses its first tokens. A conversation loses its oldest turns, as in
   generation, or is refused.

Which logit scores which token, for the prompt "Answer: " and the candidate "yes, so" (▁ is a space):

    encoded                  Answer   :      ▁yes   ,     ▁so
    read                     Answer   :      ▁yes   ,              the last token is scored, not read
    scored by the logits              ▁yes   ,      ▁so

    read by a decoder                 start  ▁yes   ,              its encoder reads "Answer:" (T5, BART)
    scored by the logits              ▁yes   ,      ▁so
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from engine.contract import Candidate
from engine.errors import AdapterError, PromptError
from engine.loading import Loaded
from engine.model_properties import decoder_start, vocabulary_size
from engine.prompting.prompter import Prompter
from engine.scoring import batching
from engine.scoring.logits_readers import ScoringInput
from engine.scoring.pair_tokenizer import Pair, PairTokenizer
from engine.types import Request

# The index of a prompt, and the prompt with one of its candidates.
NumberedPair = tuple[int, Pair]


@dataclass(frozen=True, slots=True)
class Score:
    """The score of one candidate as the continuation of its prompt.

    Attributes:
        total: the candidate's log-probability (natural logarithm): the sum of `logprobs`.
        probability: the softmax of the totals over the candidates of the prompt.
        token_ids: the candidate's tokens, by the boundary rule.
        logprobs: the log-probability of each of `token_ids`.
    """

    total: float
    probability: float
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of one prompt's candidates.

    Attributes:
        candidates: in the order given; empty if there is an error.
        error: why the prompt or one of its candidates cannot be scored, or None.
    """

    candidates: tuple[Score, ...]
    error: AdapterError | None = None


def score(
    loaded: Loaded,
    prompter: Prompter,
    prompts: Sequence[Request | str],
    candidates: Sequence[Sequence[Candidate]],
) -> list[Scores]:
    """Scores each candidate as the continuation of its prompt.

    A prompt is read once for all its candidates, in batches with other prompts.

    Args:
        loaded: a causal language model or an encoder-decoder.
        prompter: renders conversations.
        prompts: conversations, whose options `chat_template`, `system_prompt` and `overflow` apply, or plain
            texts, which are read as they are.
        candidates: one list per prompt, with at least one candidate: a text or token ids.

    Returns:
        One per prompt, in order. A prompt that fails carries its error and does not affect the others.

    Raises:
        PromptError: the numbers of prompts and of lists of candidates differ.
        Unsupported: the model cannot score.
    """

    def logprobs(pairs: Sequence[NumberedPair]) -> Iterable[list[float] | AdapterError]:
        return batching.logprobs(loaded.model, [_scoring_input(loaded, pair, i) for i, pair in pairs])

    return score_pairs(prompter, prompts, candidates, logprobs)


def score_pairs(
    prompter: Prompter,
    prompts: Sequence[Request | str],
    candidates: Sequence[Sequence[Candidate]],
    logprobs: Callable[[Sequence[NumberedPair]], Iterable[list[float] | AdapterError]],
) -> list[Scores]:
    """Scores as `score`, with log-probabilities from elsewhere.

    Args:
        logprobs: pairs of prompts and candidates, with the prompts' indices → for each pair the
            log-probability of each of the candidate's tokens, or an error.

    Raises:
        PromptError: the numbers of prompts and of lists of candidates differ.
    """
    if len(prompts) != len(candidates):
        raise PromptError(
            f"{len(prompts)} prompts have {len(candidates)} lists of candidates: give each prompt its own"
        )
    pair_tokenizer = PairTokenizer(prompter)
    pairs: list[list[Pair] | AdapterError] = []
    for i, (prompt, texts) in enumerate(zip(prompts, candidates, strict=True)):
        try:
            pairs.append(pair_tokenizer.split(prompt, texts))
        except AdapterError as error:
            pairs.append(_numbered(i, error))
    readable = [(i, pair) for i, given in enumerate(pairs) if isinstance(given, list) for pair in given]
    scored = iter(logprobs(readable))
    return [
        _scores(i, given, [next(scored) for _ in given]) if isinstance(given, list) else Scores((), given)
        for i, given in enumerate(pairs)
    ]


def next_logits(loaded: Loaded, prompter: Prompter, prompts: Sequence[Request | str]) -> np.ndarray:
    """The model's logits for the token after each prompt, over the whole vocabulary.

    Trailing spaces of a prompt are kept.

    Args:
        loaded: a causal language model or an encoder-decoder, whose first decoder token is predicted.
        prompter: renders conversations.
        prompts: conversations or plain texts.

    Returns:
        float32 (prompts, vocabulary).

    Raises:
        PromptError: a prompt cannot be read; names its index, before the model runs.
        GenerationError: the model fails on a prompt; names its index.
        Unsupported: the model cannot score.
    """
    pair_tokenizer, inputs = PairTokenizer(prompter), []
    for i, prompt in enumerate(prompts):
        try:
            inputs.append(_scoring_input(loaded, Pair(pair_tokenizer.context(prompt), []), i))
        except AdapterError as error:
            raise _numbered(i, error) from error
    logits = []
    for i, result in enumerate(batching.last_logits(loaded.model, inputs)):
        if isinstance(result, AdapterError):
            raise _numbered(i, result)
        logits.append(result.numpy())
    return np.stack(logits) if logits else np.zeros((0, vocabulary_size(loaded.model)), np.float32)


def _scoring_input(loaded: Loaded, pair: Pair, prompt: int) -> ScoringInput:
    targets, group = tuple(pair.continuation), (prompt, len(pair.context))
    if loaded.model.config.is_encoder_decoder:
        return ScoringInput(
            (decoder_start(loaded.model), *targets[:-1]), targets, group, encoder_tokens=tuple(pair.context)
        )
    return ScoringInput((*pair.context, *targets[:-1]), targets, group)


def _scores(prompt: int, pairs: list[Pair], results: Sequence[list[float] | AdapterError]) -> Scores:
    logprobs: list[list[float]] = []
    for result in results:
        if isinstance(result, AdapterError):
            return Scores((), _numbered(prompt, result))
        logprobs.append(result)
    totals = [sum(tokens) for tokens in logprobs]
    probabilities = torch.tensor(totals, dtype=torch.float64).softmax(0).tolist()
    return Scores(
        tuple(
            Score(total, probability, tuple(pair.continuation), tuple(tokens))
            for total, probability, pair, tokens in zip(totals, probabilities, pairs, logprobs, strict=True)
        )
    )


def _numbered(prompt: int, error: AdapterError) -> AdapterError:
    return type(error)(f"prompt {prompt}: {error}")
