"""A compiled step: the same numbers by torch's compiler, and the replayed step where that fails."""

import logging
import shutil

import pytest
import torch
from torch import fx

from engine.replay import compiling
from engine.replay.step import record, replaced_forward
from engine.weights.prepacking import prepack
from tests import tiny
from tests.engine.replay.test_step import logits

pytestmark = pytest.mark.numeric
HAS_COMPILER = shutil.which("g++") is not None


def uncompiled(piece, given, mode):
    """A piece as it is, in the place of `inductor`."""
    interpreter = fx.Interpreter(fx.GraphModule({}, piece))
    return lambda inputs: interpreter.run(*inputs)


def prepacked(architecture: str, dtype: torch.dtype):
    model = tiny.random_model(architecture).to(dtype)
    prepack(model)
    return model


def messages(caplog) -> list[str]:
    return [entry.getMessage() for entry in caplog.records if entry.name == "engine.replay.step"]


def assert_computes(step, model) -> None:
    expected = logits(model), logits(model, [9, 2])
    with replaced_forward(model, step.forward):
        found = logits(model), logits(model, [9, 2])
    for one, other in zip(found, expected, strict=True):
        assert torch.dist(one, other) <= (1e-5 if model.dtype == torch.float32 else 0.1) * other.norm()


@pytest.mark.parametrize("architecture", [*tiny.IN_FLIGHT, *tiny.LAYERED])
def test_a_step_in_pieces_gives_the_models_logits(architecture, monkeypatch, caplog):
    monkeypatch.setattr(compiling, "inductor", uncompiled)
    model = prepacked(architecture, torch.float32)
    with caplog.at_level(logging.INFO):
        step = record(model, compiled=True)
    [message] = messages(caplog)
    assert message.startswith("compiled the decoding step")
    assert_computes(step, model)


def test_layers_of_one_kind_share_their_pieces(monkeypatch):
    made = []
    monkeypatch.setattr(compiling, "inductor", lambda *given: made.append(1) or uncompiled(*given))
    counts = []
    for layers in (3, 6):
        record(tiny.random_model("llama", num_hidden_layers=layers), compiled=True)
        counts.append(len(made))
        made.clear()
    assert counts[0] == counts[1] > 0


def failing(*_):
    raise RuntimeError("no compiler\nand a long story")


def wrong(piece, given, mode):
    run = uncompiled(piece, given, mode)
    return lambda inputs: tuple(output * 2 for output in run(inputs))


@pytest.mark.parametrize(
    ("inductor", "reason"), [(failing, "RuntimeError: no compiler"), (wrong, "it gave other logits")]
)
def test_the_step_stays_as_it_is_where_compiling_fails(inductor, reason, monkeypatch, caplog):
    monkeypatch.setattr(compiling, "inductor", inductor)
    model = prepacked("llama", torch.float32)
    with caplog.at_level(logging.INFO):
        step = record(model, compiled=True)
    [message] = messages(caplog)
    assert message.startswith(f"option 'compile': the decoding step stays as it is: {reason}")
    assert "\n" not in message
    assert_computes(step, model)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_COMPILER, reason="needs g++")
def test_a_compiled_step_gives_the_models_logits(caplog):
    model = prepacked("llama", torch.bfloat16)
    with caplog.at_level(logging.INFO):
        step = record(model, compiled=True)
    [message] = messages(caplog)
    assert message.startswith("compiled the decoding step")
    assert_computes(step, model)


@pytest.mark.slow
def test_without_a_compiler_the_log_says_so(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    model = prepacked("llama", torch.float32)
    with caplog.at_level(logging.INFO):
        step = record(model, compiled=True)
    [message] = messages(caplog)
    assert "compiler" in message
    assert_computes(step, model)
