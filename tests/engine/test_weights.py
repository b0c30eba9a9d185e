"""Weights laid out for this machine: other places in memory, the same values and the same logits."""

import logging
from types import SimpleNamespace

import pytest
import torch

from engine import weights
from engine.backends.local import LocalEngine
from engine.loading import load
from engine.options import LoadOptions
from engine.weights import lay_out, multiplies, pack, restore
from tests import tiny
from tests.engine.rows import prompt
from tests.engine.talk import ask

TOKENS = torch.tensor([prompt(40), prompt(40, salt=1)])


@torch.no_grad()
def logits(model, rows: int = 40) -> torch.Tensor:
    return model(TOKENS[:, :rows]).logits


def values(model) -> dict[str, torch.Tensor]:
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def no_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that computes float32 alone."""
    monkeypatch.setattr(weights, "multiplies", lambda dtype: dtype == torch.float32)


@pytest.fixture
def instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU with instructions for every dtype."""
    monkeypatch.setattr(weights, "multiplies", lambda dtype: True)


# Layout


@pytest.mark.parametrize("architecture", [*tiny.IN_FLIGHT, "bloom"])
@pytest.mark.parametrize("rows", [1, 40])
def test_logits_are_the_same(architecture: str, rows: int):
    model = tiny.random_model(architecture)
    before = logits(model, rows)
    lay_out(model)
    torch.testing.assert_close(logits(model, rows), before, atol=1e-5 * before.abs().max().item(), rtol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_matrices_are_packed(architecture: str):
    model = tiny.random_model(architecture)
    lay_out(model)
    layers = model.get_submodule(model.base_model_prefix)
    parameters = layers.named_parameters(remove_duplicate=False)
    packed = {name.split(".")[-2] for name, weight in parameters if weight.is_mkldnn}
    llama = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert packed == (llama if architecture == "llama" else {"c_attn", "c_proj", "c_fc"})


def test_an_output_layer_that_is_the_embedding_is_packed_beside_it():
    model = tiny.random_model("llama", tie_word_embeddings=True)
    before = logits(model)
    lay_out(model)
    assert model.lm_head.weight.is_mkldnn
    assert not model.model.embed_tokens.weight.is_mkldnn
    torch.testing.assert_close(logits(model), before, atol=1e-5 * before.abs().max().item(), rtol=1e-5)
    restore(model)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_an_output_layer_stays_the_embedding_where_the_memory_is_short(monkeypatch):
    model = tiny.random_model("llama", tie_word_embeddings=True)
    available = model.lm_head.weight.nbytes
    monkeypatch.setattr(weights.psutil, "virtual_memory", lambda: SimpleNamespace(available=available))
    before = logits(model)
    lay_out(model)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    torch.testing.assert_close(logits(model), before, atol=1e-5 * before.abs().max().item(), rtol=1e-5)


def test_an_output_layer_with_a_bias_keeps_it():
    model = tiny.random_model("phi3")
    model.lm_head.bias = torch.nn.Parameter(torch.arange(float(tiny.VOCABULARY)))
    before = logits(model)
    lay_out(model)
    torch.testing.assert_close(logits(model), before, atol=1e-4, rtol=1e-5)


def test_laid_out_twice_is_laid_out_once():
    model = tiny.random_model("llama")
    lay_out(model)
    before = logits(model)
    lay_out(model)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_what_is_restored_is_what_it_was(architecture: str):
    model, other = (tiny.random_model(architecture) for _ in range(2))
    lay_out(model)
    restore(model)
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


# Half precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_without_instructions_is_computed_in_float32(no_instructions, dtype, caplog):
    model = tiny.random_model("llama").to(dtype)
    exact = tiny.random_model("llama").to(dtype).float()
    with caplog.at_level(logging.INFO):
        lay_out(model)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert "computing in float32" in caplog.text
    restore(model)
    assert_same(values(model), values(exact))


def test_half_precision_stays_where_the_memory_is_short(no_instructions, monkeypatch):
    model = tiny.random_model("llama").bfloat16()
    extra = 2 * model.num_parameters()
    monkeypatch.setattr(weights.psutil, "virtual_memory", lambda: SimpleNamespace(available=extra))
    before = logits(model)
    lay_out(model)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert torch.equal(logits(model), before)


def test_half_precision_with_instructions_stays(instructions):
    model = tiny.random_model("llama").bfloat16()
    lay_out(model)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_layer_of_bfloat16_gives_the_same_bits(rows: int, bias: bool):
    torch.manual_seed(0)
    layer = torch.nn.Linear(64, 96, bias=bias, dtype=torch.bfloat16)
    x = torch.randn(2, rows, 64, dtype=torch.bfloat16)
    with torch.no_grad():
        before = layer(x)
        pack([layer])
        assert layer.weight.is_mkldnn
        assert torch.equal(layer(x), before)


def test_packed_weights_give_the_same_logits_and_are_restored(instructions):
    model = tiny.random_model("llama").bfloat16()
    values_before, logits_before = values(model), logits(model)
    lay_out(model)
    assert model.model.layers[0].mlp.down_proj.weight.is_mkldnn
    assert torch.equal(logits(model), logits_before)
    restore(model)
    assert_same(values(model), values_before)
    assert torch.equal(logits(model), logits_before)


@pytest.mark.parametrize(
    ("dtype", "capability", "expected"),
    [
        (torch.float32, {}, True),
        (torch.bfloat16, {}, False),
        (torch.bfloat16, {"amx_bf16": True}, True),
        (torch.bfloat16, {"amx_fp16": True}, False),
        (torch.float16, {"amx_bf16": True}, False),
        (torch.float16, {"amx_fp16": True}, True),
    ],
)
def test_the_instructions_of_the_cpu_are_asked_for(monkeypatch, dtype, capability: dict, expected: bool):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capability)
    assert multiplies(dtype) is expected
