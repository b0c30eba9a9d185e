"""Makes requests of token ids, generates them together, and has transformers answer each alone."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch

from engine.errors import Unsupported
from engine.generation.generator import Generator
from engine.generation.sequence import Generated, SequenceState, TokenizedRequest
from engine.generation.support import BatchingSupport, check_continuous_batching
from engine.options import GenerationOptions
from tests import tiny

BYTES = len(tiny.SPECIALS)
# (architecture, whether continuous batching is used).
WAYS = [(name, True) for name in tiny.IN_FLIGHT] + [(name, False) for name in ("gpt2", "phi3", *tiny.BATCHED)]


def prompt(length: int, salt: int = 0) -> list[int]:
    """A random prompt of `length` tokens; prompts of one salt share their prefix."""
    letters = torch.Generator().manual_seed(salt)
    return torch.randint(BYTES, tiny.VOCABULARY, (600,), generator=letters).tolist()[:length]


def random_request(
    length: int, max_new_tokens: int = 12, salt: int | None = None, stopping=None, **options
) -> TokenizedRequest:
    """A request with a random prompt of `length` tokens; without a salt it shares no prefix with others."""
    return request(
        prompt(length, 1000 + length if salt is None else salt), max_new_tokens, stopping, **options
    )


def request(prompt: Sequence[int], max_new_tokens: int = 12, stopping=None, **options) -> TokenizedRequest:
    """A request with a prompt."""
    return TokenizedRequest(prompt, max_new_tokens, GenerationOptions(**options), stopping)


def generator(
    model, continuous_batching: bool = True, eos: Iterable[int] = tiny.ENDS, pad: int = tiny.PAD
) -> Generator:
    """A generator without sequences; with continuous batching only where the model supports it."""
    return Generator(
        model,
        eos=frozenset(eos),
        pad=pad,
        context_length=getattr(model.config, "max_position_embeddings", None),
        support=_support(model, frozenset(eos)) if continuous_batching else BatchingSupport("padded"),
    )


def answer(
    model, requests: Sequence[TokenizedRequest], continuous_batching: bool = True, **kwargs
) -> list[Generated]:
    """What is generated for some requests together."""
    run = generator(model, continuous_batching, **kwargs)
    sequences = [run.add(request) for request in requests]
    finish(run)
    return [sequence.generated for sequence in sequences]


def steps(run) -> Iterator[list[SequenceState]]:
    """What each step returns, until nothing is left to do."""
    for _ in range(5000):
        if not run.busy:
            return
        yield run.step()
    raise AssertionError("it does not come to an end")


def finish(run) -> list[SequenceState]:
    """Steps until nothing is left to do; returns the sequences in the order in which they ended."""
    return [sequence for news in steps(run) for sequence in news if not sequence.running]


def running_counts(run) -> list[int]:
    """The number of running sequences after each step, until nothing is left to do."""
    return [run.num_running for _ in steps(run)]


def tokens(
    model, requests: Sequence[TokenizedRequest], continuous_batching: bool = True, **kwargs
) -> list[list[int]]:
    """The tokens that are generated for some requests together."""
    return [generated.token_ids for generated in answer(model, requests, continuous_batching, **kwargs)]


def alone(model, request: TokenizedRequest, **settings) -> list[int]:
    """What `model.generate` answers to a request by itself: greedy, unless the settings say otherwise."""
    settings = {
        "do_sample": False,
        "max_new_tokens": request.max_new_tokens,
        "eos_token_id": tiny.ENDS,
    } | settings
    start = 1 if model.config.is_encoder_decoder else len(request.prompt)
    return model.generate(torch.tensor([request.prompt]), **settings)[0, start:].tolist()


@torch.no_grad()
def own_logits(model, prompt: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
    """(tokens, vocabulary): what the model gives before each token, from one pass over prompt and answer."""
    if model.config.is_encoder_decoder:
        decoder_ids = torch.tensor([[model.config.decoder_start_token_id, *tokens[:-1]]])
        return model(input_ids=torch.tensor([prompt]), decoder_input_ids=decoder_ids).logits[0]
    return model(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1]


def own_logprobs(model, prompt: Sequence[int], tokens: Sequence[int]) -> list[float]:
    """The model's own log-probabilities of an answer's tokens."""
    return own_logits(model, prompt, tokens).log_softmax(-1)[range(len(tokens)), list(tokens)].tolist()


@contextmanager
def breaking(model, fails: Callable[[dict], bool], error: Exception) -> Iterator[None]:
    """The model raises where `fails(inputs)` is true of the keyword arguments it is called with."""

    def check(_model, _args, inputs) -> None:
        if fails(inputs):
            raise error

    with model.register_forward_pre_hook(check, with_kwargs=True):
        yield


@contextmanager
def seen(model) -> Iterator[list[torch.Tensor]]:
    """The token ids of each forward pass."""
    passes: list[torch.Tensor] = []
    hook = model.register_forward_pre_hook(
        lambda _model, args, inputs: passes.append(inputs.get("input_ids", inputs.get("decoder_input_ids"))),
        with_kwargs=True,
    )
    with hook:
        yield passes


def poisoned(model, token: int):
    """The model, computing NaN from a token on."""
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = torch.nan
    return model


def kv_token_bytes(model) -> int:
    """Bytes of KV cache that a token takes."""
    return check_continuous_batching(model, frozenset(tiny.ENDS))


def _support(model, eos: frozenset[int]) -> BatchingSupport:
    try:
        return BatchingSupport("continuous", check_continuous_batching(model, eos))
    except Unsupported:
        return BatchingSupport("padded")
