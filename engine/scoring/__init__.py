"""How likely a model finds given texts as the continuation of a prompt, without generating any.

The boundary between prompt and candidate is drawn as lm-evaluation-harness does it, so that its figures and
these are the same (`TemplateLM._encode_pair` and `HFLM._loglikelihood_tokens` there):

1. Trailing spaces of the prompt belong to the candidate: "Answer: " and "yes" are scored as "Answer:" and
   " yes". For a conversation the prompt is the text that the chat template writes, up to the answer.
2. Prompt and candidate are encoded as one text, and its tokens from the length of the encoded prompt on are
   the candidate's; what is read before them is the prompt encoded by itself. The tokenizer adds its special
   tokens as always, but not where the text begins with one. An encoder-decoder model's candidate is encoded
   by itself, without special tokens: it is the target of the decoder.
3. An empty prompt is the token that begins a text (bos, else eos).
4. A plain prompt that is too long loses its first tokens. A conversation loses its first turns, as in
   generation, or is refused.

Which logit scores which token, for the prompt "Answer: " and the candidate "yes, so" (▁ is a space):

    encoded                  Answer   :      ▁yes   ,     ▁so
    read                     Answer   :      ▁yes   ,              the last token is scored, not read
    scored by the logits              ▁yes   ,      ▁so

    read by a decoder                 start  ▁yes   ,              its encoder reads "Answer:" (T5, BART)
    scored by the logits              ▁yes   ,      ▁so
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from engine.errors import AdapterError, PromptError
from engine.generation.sequence import decoder_start
from engine.loading import Loaded
from engine.prompting.prompter import Prompter
from engine.scoring import passes
from engine.scoring.pairs import Pair, Pairs
from engine.scoring.readers import Row
from engine.types import Request


@dataclass(frozen=True, slots=True)
class Score:
    """A candidate as the continuation of its prompt.

    Attributes:
        total: natural logarithm of the candidate's probability: the sum of `logprobs`.
        probability: among the prompt's candidates, which sum to 1 (a softmax of their totals).
        token_ids: the candidate's tokens, by the boundary rule.
        logprobs: natural logarithms of the probabilities that the model gives to `token_ids`, one each.
    """

    total: float
    probability: float
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Scores:
    """What a prompt's candidates score.

    Attributes:
        candidates: in the order in which they were given; empty where the prompt has an error.
        error: why the prompt or one of its candidates cannot be scored; else None.
    """

    candidates: tuple[Score, ...]
    error: AdapterError | None = None


def score(
    loaded: Loaded,
    prompter: Prompter,
    prompts: Sequence[Request | str],
    candidates: Sequence[Sequence[str]],
) -> list[Scores]:
    """The log-probability of each candidate as the continuation of its prompt, by the rule above.

    A prompt is read once for all its candidates, together with other prompts.

    Args:
        loaded: the model; a causal one or an encoder-decoder.
        prompter: writes the conversations.
        prompts: conversations, of whose options those that write the prompt count (`chat_template`,
            `system_prompt`, `overflow`), or plain texts, which are read as they are.
        candidates: for each prompt its own, at least one.

    Returns:
        One for each prompt, in their order; one that fails carries its error and costs no other.

    Raises:
        PromptError: not as many lists of candidates as prompts.
    """
    if len(prompts) != len(candidates):
        raise PromptError(
            f"{len(prompts)} prompts have {len(candidates)} lists of candidates: give each prompt its own"
        )
    splitter = Pairs(prompter)
    pairs: list[list[Pair] | AdapterError] = []
    for i, (prompt, texts) in enumerate(zip(prompts, candidates, strict=True)):
        try:
            pairs.append(splitter.split(prompt, texts))
        except AdapterError as error:
            pairs.append(_named(i, error))
    rows = [
        _row(loaded, pair, i) for i, given in enumerate(pairs) if isinstance(given, list) for pair in given
    ]
    scored = iter(passes.logprobs(loaded.model, rows))
    return [
        _scores(i, given, [next(scored) for _ in given]) if isinstance(given, list) else Scores((), given)
        for i, given in enumerate(pairs)
    ]


def next_logits(loaded: Loaded, prompter: Prompter, prompts: Sequence[Request | str]) -> np.ndarray:
    """The logits of the whole vocabulary for the token after each prompt, as the model gives them.

    The prompt is read as it stands: without candidates, its trailing spaces are its own.

    Args:
        loaded: the model; of an encoder-decoder, the decoder's first token is asked for.
        prompter: writes the conversations.
        prompts: conversations or plain texts, as for `score`.

    Returns:
        float32 (prompts, vocabulary).

    Raises:
        PromptError: a prompt that cannot be read, named by its index, before the model runs.
        GenerationError: a prompt that the model fails on, named likewise.
    """
    pairs, rows = Pairs(prompter), []
    for i, prompt in enumerate(prompts):
        try:
            rows.append(_row(loaded, Pair(pairs.context(prompt), []), i))
        except AdapterError as error:
            raise _named(i, error) from error
    logits = []
    for i, result in enumerate(passes.last_logits(loaded.model, rows)):
        if isinstance(result, AdapterError):
            raise _named(i, result)
        logits.append(result.numpy())
    vocabulary = loaded.model.config.get_text_config(decoder=True).vocab_size
    return np.stack(logits) if logits else np.zeros((0, vocabulary), np.float32)


def _row(loaded: Loaded, pair: Pair, prompt: int) -> Row:
    targets, group = tuple(pair.continuation), (prompt, len(pair.context))
    if loaded.model.config.is_encoder_decoder:
        return Row((decoder_start(loaded.model), *targets[:-1]), targets, group, source=tuple(pair.context))
    return Row((*pair.context, *targets[:-1]), targets, group)


def _scores(prompt: int, pairs: list[Pair], results: Sequence[list[float] | AdapterError]) -> Scores:
    logprobs: list[list[float]] = []
    for result in results:
        if isinstance(result, AdapterError):
            return Scores((), _named(prompt, result))
        logprobs.append(result)
    totals = [sum(tokens) for tokens in logprobs]
    probabilities = torch.tensor(totals, dtype=torch.float64).softmax(0).tolist()
    return Scores(
        tuple(
            Score(total, probability, tuple(pair.continuation), tuple(tokens))
            for total, probability, pair, tokens in zip(totals, probabilities, pairs, logprobs, strict=True)
        )
    )


def _named(prompt: int, error: AdapterError) -> AdapterError:
    return type(error)(f"prompt {prompt}: {error}")
