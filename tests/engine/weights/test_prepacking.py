"""Prepacked weights: another memory layout, the same values and the same logits."""

import logging
from collections.abc import Callable
from types import SimpleNamespace

import psutil
import pytest
import torch

from engine.backends.local import LocalEngine
from engine.loading import load
from engine.options import LoadOptions
from engine.weights.fusing import FusedProjection
from engine.weights.kernels import HALF_DTYPES
from engine.weights.prepacking import fuse, prepack, restore
from tests import tiny
from tests.helpers.sequences import prompt
from tests.helpers.talk import ask

pytestmark = pytest.mark.numeric

TOKENS = torch.tensor([prompt(40), prompt(40, salt=1)])


@torch.no_grad()
def logits(model, rows: int = 40) -> torch.Tensor:
    return model(TOKENS[:, :rows]).logits


def values(model) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def packed(model) -> set[str]:
    """The last part of the names of prepacked layers."""
    return {
        name.split(".")[-1]
        for name, module in model.named_modules()
        if getattr(vars(module).get("forward"), "func", None) is FusedProjection.run
    }


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def native_half_cpu(fake_cpu: Callable) -> None:
    """A CPU that computes natively in every dtype."""
    fake_cpu(native=HALF_DTYPES)


# Prepacking


@pytest.mark.parametrize("architecture", [*tiny.IN_FLIGHT, "bloom"])
@pytest.mark.parametrize("rows", [1, 40])
def test_logits_are_the_same(architecture: str, rows: int):
    model = tiny.random_model(architecture)
    before = logits(model, rows)
    prepack(model)
    torch.testing.assert_close(logits(model, rows), before, atol=1e-5 * before.abs().max().item(), rtol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_matrices_are_packed(architecture: str):
    model = tiny.random_model(architecture)
    prepack(model)
    llama = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert packed(model) == {"lm_head"} | (llama if architecture == "llama" else {"c_attn", "c_proj", "c_fc"})


def test_an_output_layer_that_is_the_embedding_is_packed_beside_it():
    model = tiny.random_model("llama", tie_word_embeddings=True)
    before = logits(model)
    dtypes = prepack(model)
    assert "lm_head" in packed(model)
    assert model.model.embed_tokens.weight.shape == (tiny.VOCABULARY, 32)
    torch.testing.assert_close(logits(model), before, atol=1e-5 * before.abs().max().item(), rtol=1e-5)
    restore(model, dtypes)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_an_output_layer_stays_the_embedding_where_the_memory_is_short(monkeypatch):
    model = tiny.random_model("llama", tie_word_embeddings=True)
    available = model.lm_head.weight.nbytes
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=available))
    before = logits(model)
    prepack(model)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    torch.testing.assert_close(logits(model), before, atol=1e-5 * before.abs().max().item(), rtol=1e-5)


def test_an_output_layer_with_a_bias_keeps_it():
    model = tiny.random_model("phi3")
    model.lm_head.bias = torch.nn.Parameter(torch.arange(float(tiny.VOCABULARY)))
    before = logits(model)
    prepack(model)
    torch.testing.assert_close(logits(model), before, atol=1e-4, rtol=1e-5)


def test_prepacking_twice_is_prepacking_once():
    model = tiny.random_model("llama")
    prepack(model)
    before = logits(model)
    prepack(model)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_what_is_restored_is_what_it_was(architecture: str):
    model, other = (tiny.random_model(architecture) for _ in range(2))
    restore(model, prepack(model))
    assert_same(values(model), values(other))
    assert all(weight.is_contiguous() for weight in model.parameters())
    assert [set(vars(module)) for module in model.modules()] == [
        set(vars(module)) for module in other.modules()
    ]


def test_a_model_saved_by_an_engine_is_the_one_that_was_loaded(tmp_path):
    engine = LocalEngine(load(LoadOptions(model_name=str(tiny.save(tmp_path / "one")), device="cpu")))
    requests = [ask("x" * n, max_new_tokens=8) for n in (3, 20)]
    before = engine.generate(requests)
    engine.save(tmp_path / "two")
    again = load(LoadOptions(model_name=str(tmp_path / "two"), device="cpu"))
    assert_same(values(again.model), values(tiny.random_model("llama")))
    assert LocalEngine(again).generate(requests) == before
    assert engine.generate(requests) == before


def test_what_reads_a_weight_past_its_layer_fails():
    model = tiny.random_model("llama")
    prepack(model)
    with pytest.raises(RuntimeError):
        torch.nn.functional.linear(torch.ones(1, 32), model.model.layers[0].self_attn.o_proj.weight)


def test_a_model_on_several_devices_is_left_alone():
    model = tiny.random_model("llama")
    model.hf_device_map = {"model": "cpu", "lm_head": "disk"}
    prepack(model)
    assert not packed(model)


# Half precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("architecture", [*tiny.IN_FLIGHT, "bloom", "t5", "bart"])
def test_half_precision_without_instructions_is_computed_in_float32(float32_cpu, architecture, dtype, caplog):
    model, exact = (tiny.random_model(architecture).to(dtype) for _ in range(2))
    before = values(model)
    with caplog.at_level(logging.INFO):
        dtypes = prepack(model)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert "computing in float32" in caplog.text
    if not model.config.is_encoder_decoder:
        expected = logits(exact.float())
        torch.testing.assert_close(
            logits(model), expected, atol=1e-5 * expected.abs().max().item(), rtol=1e-5
        )
    restore(model, dtypes)
    assert {weight.dtype for weight in model.parameters()} == {dtype}
    for name, weight in values(model).items():
        torch.testing.assert_close(weight, before[name], atol=3e-8, rtol=0)
        assert dtype == torch.bfloat16 or torch.equal(weight, before[name])


def test_half_precision_takes_less_than_float32_would(fake_cpu: Callable, monkeypatch):
    fake_cpu(native=(), fp16_storage=True)
    model = tiny.random_model("llama", tie_word_embeddings=True).bfloat16()
    rest = sum(weight.numel() for weight in model.parameters() if weight.dim() == 1)
    growth = 2 * (rest + model.model.embed_tokens.weight.numel())
    for available, fits in ((growth / 0.8 - 10, False), (growth / 0.8 + 10, True)):
        monkeypatch.setattr(
            psutil, "virtual_memory", lambda available=available: SimpleNamespace(available=available)
        )
        prepack(model)
        assert (model.dtype == torch.float32) is fits


@pytest.mark.parametrize("fp16_storage", [True, False])
def test_half_precision_stays_where_the_memory_is_short(
    fake_cpu: Callable, monkeypatch, caplog, fp16_storage
):
    fake_cpu(native=(), fp16_storage=fp16_storage)
    model = tiny.random_model("llama").bfloat16()
    available = 2 * model.num_parameters() if not fp16_storage else 100
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=available))
    before = logits(model)
    prepack(model)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert torch.equal(logits(model), before)
    assert "emulated on this CPU and slow" in caplog.text


def test_a_half_precision_model_saved_by_an_engine_keeps_its_dtype(float32_cpu, tmp_path):
    folder = tiny.save(tmp_path / "one", dtype="float16")
    engine = LocalEngine(load(LoadOptions(model_name=str(folder), device="cpu", dtype="float16")))
    requests = [ask("x" * n, max_new_tokens=8) for n in (3, 20)]
    before = engine.generate(requests)
    engine.save(tmp_path / "two")
    again = load(LoadOptions(model_name=str(tmp_path / "two"), device="cpu", dtype="float16"))
    assert_same(values(again.model), values(tiny.random_model("llama").half()))
    assert engine.generate(requests) == before


def test_half_precision_with_instructions_stays(native_half_cpu):
    model = tiny.random_model("llama").bfloat16()
    prepack(model)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_of_bfloat16_gives_what_it_gave(native_half_cpu, rows: int, bias: bool):
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 96, bias=bias, dtype=torch.bfloat16)
    x = torch.randn(2, rows, 64, dtype=torch.bfloat16)
    with torch.no_grad():
        before = layer(x)
        fuse([layer])
        assert not layer.weight.numel()
        torch.testing.assert_close(layer(x), before)


def test_packed_weights_give_the_same_logits_and_are_restored(native_half_cpu):
    model = tiny.random_model("llama").bfloat16()
    values_before, logits_before = values(model), logits(model)
    dtypes = prepack(model)
    assert "down_proj" in packed(model)
    near = 4 * torch.finfo(torch.bfloat16).eps * logits_before.abs().max().item()
    torch.testing.assert_close(logits(model), logits_before, atol=near, rtol=0)
    restore(model, dtypes)
    assert_same(values(model), values_before)
    torch.testing.assert_close(logits(model), logits_before, atol=near, rtol=0)
