"""Embedding: texts of all lengths, against sentence-transformers' `encode`."""

import tempfile
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from benchmarks import models, workload
from benchmarks.machine import Machine
from benchmarks.rounds import interleave, ratio
from engine.backends.local import LocalEngine
from engine.loading import Loaded

# Of the sizes tried on a CPU, the fastest.
BATCH = 16


@dataclass(frozen=True, slots=True)
class Size:
    """How much is run; `fp32`: a second time in float32, where bfloat16 is emulated."""

    rounds: int = 3
    texts: int = 512
    changes: dict[str, int] = field(default_factory=dict)
    fp32: bool = True


FULL = Size()
# All of it would take hours where bfloat16 is emulated.
EMULATED = Size(texts=128)
QUICK = Size(rounds=1, texts=256, changes={"num_hidden_layers": 4, "vocab_size": 8192}, fp32=False)


def run(size: Size, here: Machine) -> dict[str, float]:
    """Texts per second of each contender, and the engine's lead.

    Raises:
        AssertionError: vectors that differ by more than 1e-5 where both compute in float32.
    """
    figures = compare("embedding", torch.bfloat16, size)
    if size.fp32 and not here.has_bfloat16:
        figures |= compare("embedding.fp32", torch.float32, size)
    return figures


def compare(title: str, dtype: torch.dtype, size: Size) -> dict[str, float]:
    """As `run`, in one dtype."""
    loaded = models.load("L", dtype, size.changes)
    given = workload.texts(size.texts, loaded.model.config.vocab_size)
    peer = sentence_transformer(loaded)
    engine = LocalEngine(loaded)
    times = interleave(
        {
            "sentence_transformers": lambda: peer.encode(given, batch_size=BATCH, show_progress_bar=False),
            "engine": lambda: engine.embed(given),
        },
        size.rounds,
        title,
    )
    if dtype == torch.float32:
        np.testing.assert_allclose(
            times["engine"].result, times["sentence_transformers"].result, atol=1e-5, rtol=0
        )
    speeds = {name: len(given) / timed.median for name, timed in times.items()}
    figures = {f"{title}.{name}.texts_per_second": speed for name, speed in speeds.items()}
    lead = ratio(times["sentence_transformers"], times["engine"])
    return figures | {f"{title}.vs_sentence_transformers": lead}


def sentence_transformer(loaded: Loaded) -> Any:
    """The same weights with mean pooling, by way of a folder, as sentence-transformers takes them.

    It is imported here, for that takes seconds.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules.transformer import Transformer
    from sentence_transformers.sentence_transformer.modules.pooling import Pooling

    with tempfile.TemporaryDirectory() as folder:
        loaded.model.save_pretrained(folder)
        loaded.tokenizer.save_pretrained(folder)
        transformer = Transformer(folder, model_kwargs={"dtype": loaded.model.dtype}, max_seq_length=512)
    transformer.tokenizer.add_special_tokens({"pad_token": models.PAD})
    pooling = Pooling(loaded.model.config.hidden_size, "mean")
    return SentenceTransformer(modules=[transformer, pooling], device="cpu")
