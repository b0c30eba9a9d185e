"""A replayed pass: the model's own numbers, without its Python code."""

import pytest
import torch

from engine.attention import packed
from engine.attention.varlen import VarlenMetadata
from engine.replay import step
from engine.replay.step import record, replaced_forward
from engine.weights.prepacking import prepack
from tests import tiny
from tests.helpers.sequences import prompt
from tests.helpers.talk import ask

pytestmark = pytest.mark.numeric

LENGTHS = (1, 7, 3)
ALL = range(11)


def logits(model, wanted=ALL) -> torch.Tensor:
    tokens = prompt(len(ALL), salt=4)
    positions = [position for length in LENGTHS for position in range(length)]
    return packed.logits(model, tokens, positions, VarlenMetadata(LENGTHS), wanted)


class Layer(torch.nn.Module):
    """Replaces a part of a model's last layer: runs it, and something else."""

    def __init__(self, own, also) -> None:
        super().__init__()
        self._own, self._also = own, also

    def forward(self, x):
        return self._also(self._own(x))


def with_layer(also):
    model = tiny.random_model("llama")
    model.model.layers[-1].mlp = Layer(model.model.layers[-1].mlp, also)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", tiny.IN_FLIGHT)
def test_its_logits_are_the_models(architecture: str, dtype: torch.dtype):
    model = tiny.random_model(architecture).to(dtype)
    prepack(model)
    replayed = record(model)
    expected = logits(model), logits(model, [9, 2])
    with replaced_forward(model, replayed.forward):
        found = logits(model), logits(model, [9, 2])
    for one, other in zip(found, expected, strict=True):
        error = 1e-5 if model.dtype == torch.float32 else 0.1
        assert torch.dist(one, other) <= error * other.norm()


def test_weights_that_are_stored_in_half_precision_are_recorded_too(fake_cpu):
    fake_cpu(native=(), fp16_storage=True)
    model = tiny.random_model("llama").bfloat16()
    prepack(model)
    expected = logits(model)
    with replaced_forward(model, record(model).forward):
        torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-5)


def test_it_runs_none_of_the_models_code():
    model = tiny.random_model("llama")
    replayed = record(model)
    expected = logits(model)
    model.model.forward = None
    with replaced_forward(model, replayed.forward):
        torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-5)


def test_hooks_of_the_model_run_around_it():
    model, calls = tiny.random_model("llama"), []
    replayed = record(model)
    with (
        replaced_forward(model, replayed.forward),
        model.register_forward_pre_hook(lambda *_: calls.append(1)),
    ):
        logits(model)
    assert calls == [1]
    assert "forward" not in vars(model)


def test_decoding_runs_it(monkeypatch):
    engine = tiny.engine("llama")
    calls, own = [], engine.batching.replayed.forward
    monkeypatch.setattr(
        engine.batching.replayed, "forward", lambda **inputs: calls.append(1) or own(**inputs)
    )
    answers = engine.generate([ask(question, max_new_tokens=9) for question in ("Hi", "How are you?")])
    steps = max(len(answer.token_ids) for answer in answers)
    assert len(calls) >= steps - 1


@pytest.mark.parametrize(
    "also",
    [
        lambda x: x if x.sum() > 0 else x + 1,
        lambda x: x + torch.rand_like(x),
        lambda x: torch.cat([x[:, : x.shape[1] // 2], x[:, x.shape[1] // 2 :]], 1),
        lambda x: x * 2 if x.shape[1] == step.MOST_TOKENS else x,
        lambda x: x[x.abs().amax(-1) < 0.1].sum() + x,
    ],
    ids=["by its numbers", "by chance", "by half its length", "by its length", "by a mask"],
)
def test_code_that_a_recording_would_not_repeat_is_run_as_it_is(also):
    model = with_layer(also)
    replayed = record(model)
    if replayed is None:
        return
    expected = logits(model)
    with replaced_forward(model, replayed.forward):
        torch.testing.assert_close(logits(model), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("also", [lambda x: x if x.sum() > 0 else x + 1, lambda x: x + torch.rand_like(x)])
def test_code_that_decides_by_numbers_or_draws_them_is_not_recorded(also):
    assert record(with_layer(also)) is None


def test_code_that_changes_what_it_keeps_is_not_recorded():
    kept = torch.zeros(1)
    assert record(with_layer(lambda x: x + kept.add_(1))) is None
