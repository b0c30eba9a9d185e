"""`quantize: int8`: 8-bit products are exact sums of integers, and models answer as they do without it."""

import json
import logging
from collections.abc import Callable

import pytest
import torch

from engine.backends.local import LocalEngine
from engine.errors import ConfigurationError, Unsupported
from engine.loading import Loaded, load, memory_footprint
from engine.loading.footprint import int8_bytes
from engine.options import LoadOptions
from engine.weights import cpu, prepacking
from engine.weights.int8 import Int7Kernel, Int8Kernel, changes_little
from engine.weights.kernels import HALF_DTYPES
from tests import tiny
from tests.helpers.fake_cpus import FAKE_CPUS
from tests.helpers.sequences import prompt
from tests.helpers.talk import ask

pytestmark = pytest.mark.numeric

OPTIONS = LoadOptions(model_name="none", device="cpu", quantize="int8")


@pytest.fixture(autouse=True)
def _supported() -> None:
    if cpu.int8_kernel() is None:
        pytest.skip("FBGEMM does not run on this CPU")


def numbers(*shape: int, salt: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(salt))


def int8(model) -> LocalEngine:
    return LocalEngine(Loaded(model, tiny.byte_tokenizer(), 512, OPTIONS))


@torch.no_grad()
def logits(model) -> torch.Tensor:
    tokens = torch.tensor([prompt(40), prompt(40, salt=1)])
    given = {"decoder_input_ids": tokens} if model.config.is_encoder_decoder else {}
    return model(tokens, **given).logits.float()


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


# The kernel


@pytest.mark.parametrize("dtype", [torch.float32, *HALF_DTYPES])
@pytest.mark.parametrize("shape", [(40,), (0, 40), (1, 40), (7, 40), (2, 3, 40)])
@pytest.mark.parametrize("biased", [True, False])
def test_a_product_is_near_that_of_the_weight(dtype, shape, biased: bool):
    weight, bias = numbers(48, 40).to(dtype), numbers(48).to(dtype) if biased else None
    x = numbers(*shape, salt=1).to(dtype)
    found = cpu.int8_kernel()(weight, bias)(x)
    expected = torch.nn.functional.linear(x.float(), weight.float(), None if bias is None else bias.float())
    assert (found.dtype, found.shape) == (dtype, expected.shape)
    assert (found - expected).norm() <= 0.03 * expected.norm()


@pytest.mark.parametrize("kernel", [Int8Kernel, Int7Kernel])
def test_a_kernel_whose_integers_overflow_is_not_used(kernel, monkeypatch):
    """The largest integers are summed exactly by the kernel that is chosen."""
    chosen = cpu.int8_kernel()
    weight, x = torch.full((48, 360), 127.0), torch.full((5, 360), float(chosen.largest))
    torch.testing.assert_close(chosen(weight, None)(x), x @ weight.t(), rtol=1e-6, atol=0)
    monkeypatch.setattr(cpu, "is_exact", lambda other: other is kernel)
    assert cpu.int8_kernel.__wrapped__() is kernel


class Saturating(Int8Kernel):
    """Adds pairs of products in 16 bits, as CPUs without VNNI do."""

    def __call__(self, x):
        weight, x = self.unpack().round(), x.round() + 128
        pairs = (weight[None] * x[:, None]).unflatten(-1, (-1, 2)).sum(-1)
        return pairs.clamp(-(2**15), 2**15 - 1).sum(-1) - 128 * weight.sum(-1)


class Missing(Int8Kernel):
    def __init__(self, weight, bias):
        raise RuntimeError("no engine")


@pytest.mark.parametrize("kernel", [Saturating, Missing])
def test_a_kernel_that_is_wrong_or_missing_is_not_exact(kernel):
    assert not cpu.is_exact(kernel)


def test_a_row_is_multiplied_alike_alone_and_among_larger_ones():
    kernel = cpu.int8_kernel()(numbers(48, 40), None)
    x = numbers(9, 40) * torch.logspace(-6, 6, 9)[:, None]
    assert torch.equal(kernel(x), torch.cat([kernel(row[None]) for row in x]))


def test_rows_of_zeros_are_zeros_and_nan_stays_nan():
    weight = numbers(48, 40)
    weight[3] = 0
    kernel = cpu.int8_kernel()(weight, None)
    x = numbers(3, 40)
    x[0], x[1, 5] = 0, torch.nan
    found = kernel(x)
    assert not found[0].any()
    assert found[1].isnan().all()
    assert found[2].isfinite().all()
    assert found[2, 3] == 0


def test_outliers_change_what_a_layer_computes():
    weight, x = numbers(48, 40), numbers(24, 40, salt=1)
    assert changes_little(cpu.int8_kernel()(weight, None), weight, None, x)
    x[:, 7] *= 50
    weight[:, 7] /= 50
    assert not changes_little(cpu.int8_kernel()(weight, None), weight, None, x)


# Models


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", [*tiny.CONFIGS])
def test_a_model_gives_about_the_same_logits(architecture: str, dtype, tied: bool):
    model = tiny.random_model(architecture, tie_word_embeddings=tied).to(dtype)
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 0.3  # An attention that is a hard choice would go another way after any rounding.
    before = logits(model)
    prepacking.prepack(model, int8=True)
    assert any(weight.dtype == torch.int8 for weight in model.parameters())
    assert 0 < difference(logits(model), before) < 0.2


@pytest.mark.parametrize("given", FAKE_CPUS.values(), ids=FAKE_CPUS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_answers_on_every_cpu(fake_cpu: Callable, given: dict, dtype):
    fake_cpu(**given)
    engine = int8(tiny.random_model("llama").to(dtype))
    answers = engine.generate([ask("hi", max_new_tokens=4), ask("what is it?", max_new_tokens=4)])
    assert [answer.error for answer in answers] == [None, None]


def test_steps_are_batched_continuously_and_replayed():
    batching = int8(tiny.random_model("llama")).batching
    assert batching.batching == "continuous"
    assert batching.replayed is not None


def outlying():
    """A Llama whose norms give 50 times as large numbers in some channels, which the next weights undo."""
    model = tiny.random_model("llama")
    with torch.no_grad():
        for layer in model.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            for norm, readers in (
                (layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)),
                (layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)),
            ):
                norm.weight[3:5] *= 50
                for reader in readers:
                    reader.weight[:, 3:5] /= 50
    return model


def test_layers_that_read_outliers_stay_as_they_are(caplog):
    model = outlying()
    before = logits(model)
    caplog.set_level(logging.INFO, "engine")
    prepacking.prepack(model, int8=True)
    assert difference(logits(model), before) < 0.1
    layer = model.model.layers[0]
    assert layer.self_attn.q_proj.weight.dtype == layer.mlp.up_proj.weight.dtype == torch.float32
    assert layer.mlp.down_proj.weight.dtype == torch.int8
    assert "% of the weights" in caplog.text


def test_a_model_without_8_bit_layers_is_refused(monkeypatch):
    monkeypatch.setattr(cpu, "changes_little", lambda *_: False)
    with pytest.raises(ConfigurationError, match="has no layer that gives about the same numbers: leave it"):
        int8(tiny.random_model("llama"))


def test_a_model_that_gives_other_numbers_is_refused(monkeypatch):
    monkeypatch.setattr(prepacking, "_changed", lambda *_: "gives other numbers (by 3.0e-01)")
    with pytest.raises(
        ConfigurationError, match=r"quantize: int8 cannot.* gives other numbers .*leave it out"
    ):
        int8(tiny.random_model("llama"))


def test_it_cannot_be_saved(tmp_path):
    engine = int8(tiny.random_model("llama"))
    with pytest.raises(Unsupported, match="load the model without quantize to save it"):
        engine.save(tmp_path)
    assert not list(tmp_path.iterdir())


# Loading


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"load_in_8bit": True}, "load_in_8bit is true: leave one of them out"),
        ({"load_in_4bit": True}, "load_in_4bit is true: leave one of them out"),
        ({"use_quantization": True}, "use_quantization is true: leave one of them out"),
        ({"use_quantization": False}, "use_quantization is false: leave one of them out"),
        ({"device_map": "auto"}, "not for device_map: set load_in_8bit instead"),
    ],
    ids=str,
)
def test_what_it_contradicts_is_refused_before_anything_is_read(given: dict, says: str):
    with pytest.raises(ConfigurationError, match=says):
        load(LoadOptions(model_name="/no/such/folder", device="cpu", quantize="int8", **given))


def test_a_cpu_without_the_library_is_refused(monkeypatch):
    monkeypatch.setattr(cpu, "int8_kernel", lambda: None)
    with pytest.raises(ConfigurationError, match="needs FBGEMM"):
        load(OPTIONS)


def test_a_checkpoint_that_is_quantized_is_refused(tmp_path):
    folder = tiny.save(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigurationError, match=r"quantized already \(bitsandbytes\): leave quantize out"):
        load(OPTIONS.model_copy(update={"model_name": str(folder)}))


def test_the_plan_says_so_and_a_model_from_a_folder_is_in_8_bits(tmp_path):
    options = OPTIONS.model_copy(update={"model_name": str(tiny.save(tmp_path))})
    assert "in 8 bits, once they are loaded" in str(memory_footprint(options))
    model = LocalEngine(load(options)).loaded.model
    assert model.lm_head.weight.dtype == torch.int8


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "t5"])
def test_the_plan_knows_what_it_takes(architecture: str):
    model = tiny.random_model(architecture)
    linear = [
        module.weight
        for module in prepacking._linear_layers(model)
        if module.weight is not model.get_input_embeddings().weight
    ]
    whole = sum(weight.nbytes for weight in model.parameters())
    output = model.get_output_embeddings().weight
    copied = output.numel() if output is model.get_input_embeddings().weight else 0
    saved = 3 * sum(weight.numel() for weight in linear)
    assert int8_bytes(model, torch.float32) == whole - saved + copied
