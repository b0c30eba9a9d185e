"""One loaded model in several threads: every call gives what it gives by itself."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from engine.backends.local import LocalEngine
from engine.module_state import model_lock
from engine.options import GenerationOptions
from engine.types import Message, Request
from tests import tiny

TEXTS = ["Hello!", "A somewhat longer text.", "x" * 70]


def chat(engine: LocalEngine, salt: str) -> list[tuple[int, ...]]:
    options = GenerationOptions(max_new_tokens=8)
    requests = [Request((Message("user", (f"{salt}{text}",)),), options) for text in TEXTS]
    answers = engine.generate(requests)
    assert [answer.error for answer in answers] == [None] * len(requests)
    return [answer.token_ids for answer in answers]


def stream(engine: LocalEngine, salt: str) -> str:
    request = Request((Message("user", (salt,)),), GenerationOptions(max_new_tokens=8))
    return "".join(chunk.text for chunk in engine.stream([request]))


def score(engine: LocalEngine, salt: str) -> list[float]:
    return [candidate.total for candidate in engine.score([salt], [["abc", "b"]])[0].candidates]


def embed(engine: LocalEngine, salt: str) -> np.ndarray:
    return engine.embed([salt + text for text in TEXTS])


def hidden_states(engine: LocalEngine, salt: str) -> np.ndarray:
    return np.asarray(engine.hidden_states([salt], layer=1))


def next_logits(engine: LocalEngine, salt: str) -> np.ndarray:
    return engine.next_logits([salt])


CALLS = [chat, stream, score, embed, hidden_states, next_logits]


def equal(one: object, other: object) -> bool:
    if isinstance(one, np.ndarray) or (isinstance(one, list) and isinstance(one[0], float)):
        return bool(np.allclose(one, other, atol=1e-3))
    return one == other


@pytest.mark.parametrize("architecture", ["llama", "mistral", "bloom", "t5"])
def test_eight_threads_mix_all_calls_and_each_gets_what_it_gets_alone(architecture: str):
    engine = tiny.engine(architecture)
    work = [partial(call, engine, salt) for salt in ("a", "bc", "d e") for call in CALLS] * 2
    expected = [call() for call in work]
    fresh = tiny.engine(architecture)  # What is made at the first call is made by several threads, too.
    together = threading.Barrier(8)

    def run(call: partial) -> object:
        together.wait(timeout=60)
        return call.func(fresh, *call.args[1:])

    with ThreadPoolExecutor(8) as pool:
        whole = len(work) - len(work) % 8
        results = list(pool.map(run, work[:whole]))
    assert [equal(result, want) for result, want in zip(results, expected, strict=False)] == [True] * whole


def test_a_model_and_its_parts_have_one_lock():
    model = tiny.random_model("llama")
    assert model_lock(model.model) is model_lock(model) is model_lock(model.model.layers[1])
    assert model_lock(model) is not model_lock(tiny.random_model("llama"))


def test_the_models_own_attention_is_back_after_every_call():
    engine = tiny.engine("llama")
    own = engine.loaded.model.config._attn_implementation
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda call: call(engine, "a"), CALLS * 4))
    assert engine.loaded.model.config._attn_implementation == own


def test_a_model_is_saved_while_it_answers(tmp_path: Path):
    engine = tiny.engine("llama")
    expected = chat(engine, "a")
    with ThreadPoolExecutor(4) as pool:
        saved = [pool.submit(engine.save, tmp_path / str(i)) for i in range(3)]
        answered = [pool.submit(chat, engine, "a") for _ in range(12)]
        assert [one.result() for one in answered] == [expected] * 12
        assert [one.result() for one in saved] == [None] * 3
