"""Which way of batching a model supports: tried at load, on short sequences, against the untouched model."""

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from engine import trial
from engine.attention.packed import logits, supports_packing
from engine.batching import Batching
from engine.errors import AdapterError, Unsupported
from engine.generation.forward_batch import ForwardBatch, QueryChunk
from engine.generation.hf_generate import has_token_rules, padded
from engine.generation.kv_cache import KVCache
from engine.loading.placement import is_sharded
from engine.replay.step import ReplayedStep, record

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BatchingSupport:
    """How the sequences of a model may share a batch.

    Attributes:
        batching: "continuous", or for static batching "padded", "equal_length" or "single".
        kv_token_bytes: bytes of KV cache that a token takes; 0 without continuous batching.
        replayed: the forward pass over few tokens, recorded; None where the model's own code runs.
    """

    batching: Batching
    kv_token_bytes: int = 0
    replayed: ReplayedStep | None = None


def find_batching(
    model: PreTrainedModel, eos: frozenset[int], pad: int, compiled: bool = False
) -> BatchingSupport:
    """The fastest batching that leaves the model's logits as they are; the log says why it is not continuous.

    Args:
        eos: token ids that end a sequence.
        pad: the token id that fills short prompts.
        compiled: has the forward pass over few tokens compiled.

    Raises:
        Unsupported: transformers itself cannot generate with the model.
    """
    try:
        kv_token_bytes = check_continuous_batching(model, eos)
    except Unsupported as reason:
        batching = static_batching(model, pad)
        logger.info(
            "%s generates in static batches (%s), not continuously: %s",
            type(model).__name__,
            batching,
            reason,
        )
        return BatchingSupport(batching)
    return BatchingSupport("continuous", kv_token_bytes, record(model, compiled))


def check_continuous_batching(model: PreTrainedModel, eos: frozenset[int]) -> int:
    """Checks that the model supports continuous batching; returns the bytes of KV cache that a token takes.

    Two sequences are prefilled in chunks and decoded side by side, past the model's (narrowed) sliding
    windows. Their logits have to be those that the model gives for each sequence alone.

    Raises:
        Unsupported: the model does not support it; the message says why.
    """
    if has_token_rules(model, eos):
        raise Unsupported("the checkpoint forces or forbids tokens")
    if is_sharded(model):
        raise Unsupported("the model is spread over several devices")
    if not supports_packing(model):
        raise Unsupported("its attention or its cache is not made for it")
    long, *_, short = trial.prompts(model)
    kv_cache = KVCache()

    def alone() -> list[torch.Tensor]:
        return [model(torch.tensor([tokens], device=model.device)).logits[0] for tokens in (long, short)]

    try:
        with torch.inference_mode():
            with trial.narrowed_windows(model):
                together, expected = _chunked_logits(model, kv_cache, long, short), alone()
            right = trial.matches(model, together, expected, alone)
    except AdapterError:
        raise
    except Exception as error:  # Third-party code: any exception is possible.
        raise Unsupported(f"it failed on a trial: {type(error).__name__}: {error}") from error
    if not right:
        far = trial.relative_error(together, expected)
        raise Unsupported(f"a trial gave other logits than the model alone (by {far:.1e})")
    return kv_cache.kv_token_bytes


def _chunked_logits(
    model: PreTrainedModel, kv_cache: KVCache, long: Sequence[int], short: Sequence[int]
) -> list[torch.Tensor]:
    """The logits of two sequences that are read in chunks, side by side, (tokens, vocabulary) each.

    The chunks cover a sequence that decodes while the other does, and while the other prefills.
    """
    kv_cache.resize(2, len(long))
    found: list[list[torch.Tensor]] = [[], []]
    middle = len(long) // 2
    cuts = [0, middle - 2, middle - 1, middle, len(long)], [0, 2, 3, 4, len(short)]
    for step in range(len(cuts[0]) - 1):
        chunks = [
            QueryChunk(slot, start, tokens[start:end])
            for slot, (tokens, cut) in enumerate(((long, cuts[0]), (short, cuts[1])))
            for start, end in [cut[step : step + 2]]
        ]
        batch = ForwardBatch(kv_cache, chunks, model.device)
        given = logits(model, batch.tokens, batch.positions, batch, range(len(batch.tokens)))
        parts = given.split([len(chunk.tokens) for chunk in batch.chunks])
        for chunk, part in zip(batch.chunks, parts, strict=True):
            found[chunk.slot].append(part)
    return [torch.cat(parts) for parts in found]


def static_batching(model: PreTrainedModel, pad: int) -> Batching:
    """Which sequences may share a static batch: the first way that leaves their logits as they are alone.

    A model with a recurrent state may ignore the padding mask; one whose experts have a capacity depends on
    the other sequences of its batch.

    Args:
        pad: the token id that fills short prompts.

    Raises:
        Unsupported: transformers itself cannot generate with the model.
    """
    prompts = trial.prompts(model)
    equal = [prompts[0], trial.token_ids(model, len(prompts[0]), step=19)]
    ways: list[tuple[Batching, list[list[int]]]] = [("padded", prompts), ("equal_length", equal)]
    alone = functools.cache(lambda prompt: trial.forced_logits(model, [prompt], pad))

    def unmasked(prompts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        return list(trial.forced_logits(model, padded(model, prompts, pad), pad))

    with trial.narrowed_windows(model):
        for batching, batch in ways[trial.forbids_padding(model) :]:
            try:
                expected = [alone(tuple(prompt))[0] for prompt in batch]
            except Exception as error:  # Third-party code: any exception is possible.
                reason = f"{type(error).__name__}: {error}"
                raise Unsupported(
                    f"{type(model).__name__} cannot generate: it fails by itself ({reason})"
                ) from error
            try:
                found = list(trial.forced_logits(model, batch, pad))
                if trial.matches(model, found, expected, functools.partial(unmasked, batch)):
                    return batching
            except Exception as error:
                logger.debug("a trial of static batching (%s) failed", batching, exc_info=error)
    return "single"
