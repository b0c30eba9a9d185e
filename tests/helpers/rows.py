"""Short ways to make rows, to run them, and to have transformers answer them one by one."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch

from engine.errors import Unsupported
from engine.generation.generator import Generation, token_bytes
from engine.generation.sampling import Decoding, Generated, Row
from engine.options import GenerationOptions
from tests import tiny

BYTES = len(tiny.SPECIALS)
# An architecture, and whether its rows are to be in flight.
WAYS = [(name, True) for name in tiny.IN_FLIGHT] + [(name, False) for name in ("gpt2", "phi3", *tiny.BATCHED)]


def prompt(length: int, salt: int = 0) -> list[int]:
    """So many tokens; those of one salt begin alike."""
    letters = torch.Generator().manual_seed(salt)
    return torch.randint(BYTES, tiny.VOCABULARY, (600,), generator=letters).tolist()[:length]


def row(length: int, max_new_tokens: int = 12, salt: int | None = None, ending=None, **options) -> Row:
    """A row whose prompt has so many tokens, and begins as no other unless a salt says so."""
    return asks(prompt(length, 1000 + length if salt is None else salt), max_new_tokens, ending, **options)


def asks(prompt: Sequence[int], max_new_tokens: int = 12, ending=None, **options) -> Row:
    """A row with a prompt."""
    return Row(prompt, max_new_tokens, GenerationOptions(**options), ending)


def rows_of(model, in_flight: bool = True, eos: Iterable[int] = tiny.ENDS, pad: int = tiny.PAD) -> Generation:
    """A run without rows; in flight only where the model can be."""
    return Generation(
        model,
        eos=frozenset(eos),
        pad=pad,
        window=getattr(model.config, "max_position_embeddings", None),
        token_bytes=measured(model, frozenset(eos)) if in_flight else None,
    )


def answer(model, rows: Sequence[Row], in_flight: bool = True, **kwargs) -> list[Generated]:
    """What is generated for some rows together."""
    run = rows_of(model, in_flight, **kwargs)
    decodings = [run.add(row) for row in rows]
    finish(run)
    return [decoding.generated for decoding in decodings]


def steps(run) -> Iterator[list[Decoding]]:
    """What each step returns, until nothing is left to do."""
    for _ in range(5000):
        if not run.busy:
            return
        yield run.step()
    raise AssertionError("it does not come to an end")


def finish(run) -> list[Decoding]:
    """Steps until nothing is left to do; the rows in the order in which they ended."""
    return [decoding for news in steps(run) for decoding in news if not decoding.live]


def live_rows(run) -> list[int]:
    """How many rows are live after each step, until nothing is left to do."""
    return [run.live for _ in steps(run)]


def tokens(model, rows: Sequence[Row], in_flight: bool = True, **kwargs) -> list[list[int]]:
    """The tokens that are generated for some rows together."""
    return [generated.token_ids for generated in answer(model, rows, in_flight, **kwargs)]


def alone(model, row: Row, **settings) -> list[int]:
    """What `model.generate` makes of a row by itself: greedy, unless the settings say otherwise."""
    settings = {
        "do_sample": False,
        "max_new_tokens": row.max_new_tokens,
        "eos_token_id": tiny.ENDS,
    } | settings
    start = 1 if model.config.is_encoder_decoder else len(row.prompt)
    return model.generate(torch.tensor([row.prompt]), **settings)[0, start:].tolist()


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


def measured(model, eos: frozenset[int] = frozenset(tiny.ENDS)) -> int | None:
    """What a token takes in the memory of a model whose rows can be in flight, else None."""
    try:
        return token_bytes(model, eos)
    except Unsupported:
        return None
