"""Quantization: each option arrives at bitsandbytes, and a model with 8 or 4 bits a weight answers."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch
import transformers
from torch import nn

from engine.backends.local import LocalEngine
from engine.errors import ConfigurationError, LoadError
from engine.loading import load, quantization
from engine.loading.footprint import weight_bytes
from engine.options import LoadOptions
from engine.weights import cpu
from tests import tiny
from tests.helpers.talk import ask

pytestmark = pytest.mark.numeric

BITS = [8, 4]


def options(**given) -> LoadOptions:
    return LoadOptions(**{"model_name": "/no/such/folder", "device": "cpu"} | given)


@contextmanager
def instructions(bfloat16: bool) -> Iterator[None]:
    """A CPU with instructions for bfloat16 that bitsandbytes uses, or one without."""
    if bfloat16 and not bnb.functional.has_avx512bf16():
        pytest.skip("this CPU has no instructions for bfloat16 that bitsandbytes uses")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bnb.nn.modules, "has_avx512bf16", lambda: bfloat16)
        cpu._supports_4bit.cache_clear()
        yield
    cpu._supports_4bit.cache_clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama in a folder, whose layers fill bitsandbytes' blocks."""
    return tiny.save(tmp_path_factory.mktemp("quantized"), hidden_size=64, intermediate_size=128)


@pytest.fixture(scope="module", params=[(8, False), (4, False), (4, True)], ids=["8", "4", "4 bfloat16"])
def engine(request: pytest.FixtureRequest, folder: Path) -> Iterator[LocalEngine]:
    """An engine with a model in 8 and in 4 bits, on either CPU."""
    bits, bfloat16 = request.param
    with instructions(bfloat16):
        yield LocalEngine(load(options(model_name=str(folder), **{f"load_in_{bits}bit": True})))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"use_quantization": False}, None),
        ({"load_in_8bit": "False", "load_in_4bit": "false", "use_quantization": "False"}, None),
        ({"use_quantization": False, "load_in_8bit": True, "load_in_4bit": True}, None),
        ({"use_quantization": False, "bnb_4bit_quant_type": "nf4", "llm_int8_threshold": 3}, None),
        ({"use_quantization": True}, {"load_in_4bit": True, "load_in_8bit": False}),
        ({"use_quantization": True, "load_in_8bit": True}, {"load_in_8bit": True, "load_in_4bit": False}),
        ({"use_quantization": True, "bnb_4bit_quant_type": "nf4"}, {"bnb_4bit_quant_type": "nf4"}),
        ({"load_in_8bit": True}, {"llm_int8_threshold": 6.0, "llm_int8_has_fp16_weight": False}),
        ({"load_in_8bit": True, "llm_int8_threshold": 2.5}, {"llm_int8_threshold": 2.5}),
        ({"load_in_8bit": True, "llm_int8_has_fp16_weight": True}, {"llm_int8_has_fp16_weight": True}),
        ({"load_in_8bit": True, "llm_int8_skip_modules": ["q_proj"]}, {"llm_int8_skip_modules": ["q_proj"]}),
        (
            {"load_in_8bit": True, "llm_int8_enable_fp32_cpu_offload": True, "device_map": "auto"},
            {"llm_int8_enable_fp32_cpu_offload": True},
        ),
        ({"load_in_4bit": True, "llm_int8_skip_modules": ["q_proj"]}, {"llm_int8_skip_modules": ["q_proj"]}),
        (
            {"load_in_4bit": True, "bnb_4bit_compute_dtype": "bfloat16"},
            {"bnb_4bit_compute_dtype": torch.bfloat16},
        ),
        ({"load_in_4bit": True, "bnb_4bit_use_double_quant": True}, {"bnb_4bit_use_double_quant": True}),
    ],
    ids=str,
)
def test_the_options_become_bitsandbytes_settings(given: dict, expected: dict | None):
    settings = quantization.quantization_config(options(**given))
    if expected is None:
        assert settings is None
    else:
        assert isinstance(settings, transformers.BitsAndBytesConfig)
        assert {name: getattr(settings, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"load_in_8bit": True, "load_in_4bit": True}, "load_in_8bit and load_in_4bit are both true"),
        ({"llm_int8_threshold": 6}, "llm_int8_threshold .*set load_in_8bit"),
        ({"llm_int8_has_fp16_weight": True, "load_in_4bit": True}, "has_fp16_weight .*set load_in_8bit"),
        ({"bnb_4bit_quant_type": "nf4"}, "bnb_4bit_quant_type .*set load_in_4bit"),
        ({"bnb_4bit_use_double_quant": True, "load_in_8bit": True}, "double_quant .*set load_in_4bit"),
        ({"bnb_4bit_compute_dtype": "float16"}, "bnb_4bit_compute_dtype .*set load_in_4bit"),
        ({"llm_int8_skip_modules": ["lm_head"]}, "skip_modules .*set load_in_8bit or load_in_4bit"),
        (
            {"load_in_8bit": True, "llm_int8_enable_fp32_cpu_offload": True},
            "llm_int8_enable_fp32_cpu_offload .*set device_map",
        ),
    ],
    ids=str,
)
def test_options_that_contradict_each_other_are_refused_before_anything_is_read(given: dict, says: str):
    with pytest.raises(ConfigurationError, match=says):
        load(options(**given))


@pytest.mark.parametrize("asked", ["load_in_8bit", "load_in_4bit", "use_quantization"])
def test_without_bitsandbytes_it_is_named_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, asked: str
):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigurationError, match=f"{asked} needs bitsandbytes.*pip install bitsandbytes"):
        load(options(**{asked: True}))
    with pytest.raises(LoadError, match="no such folder"):
        load(options())


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, torch.float32), ({"dtype": "bfloat16"}, torch.bfloat16), ({"dtype": "float16"}, torch.float16)],
)
def test_4_bits_are_multiplied_in_the_models_dtype(folder: Path, given: dict, expected: torch.dtype):
    model = load(options(model_name=str(folder), load_in_4bit=True, **given)).model
    assert model.model.layers[0].mlp.up_proj.compute_dtype == expected


# What is loaded


def test_weights_are_quantized_and_the_output_layer_is_not(engine: LocalEngine):
    layer = engine.loaded.model.model.layers[0].mlp.up_proj
    names = {type(layer).__name__, str(layer.weight.dtype).removeprefix("torch.")}
    assert names in ({"Linear8bitLt", "int8"}, {"Linear4bit", "uint8"})
    assert type(engine.loaded.model.lm_head) is nn.Linear


def test_a_quantized_model_answers_as_its_model_alone_does(engine: LocalEngine):
    answer = engine.generate([ask("hi", max_new_tokens=8)])[0]
    assert answer.error is None
    prompt = torch.tensor([engine.prompter.encode(ask("hi").messages, ask("hi").options)])
    own = engine.loaded.model.generate(prompt, do_sample=False, max_new_tokens=8)[0, prompt.shape[1] :]
    assert list(answer.token_ids) == own.tolist()


def assert_computes_its_weights(engine: LocalEngine) -> None:
    """Its logits are those of the model that has its weights in float32."""
    loaded = load(engine.loaded.options)
    whole = LocalEngine(replace(loaded, model=loaded.model.dequantize(torch.float32)))
    prompts = [ask(text) for text in ("hi", "what is it?", "日本")]
    logits, near = whole.next_logits(prompts), engine.next_logits(prompts)
    difference = ((logits - near) ** 2).sum() ** 0.5 / (logits**2).sum() ** 0.5
    # With 8 bits, what a layer reads is rounded to 8 bits, too; with 4 it may be rounded to bfloat16.
    assert difference < 0.1


def test_a_quantized_model_computes_what_its_weights_say(engine: LocalEngine):
    assert_computes_its_weights(engine)


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden_size": 32, "intermediate_size": 64},
        {"hidden_size": 96, "intermediate_size": 200},
        {"hidden_size": 64, "intermediate_size": 320, "head_dim": 12},
    ],
    ids=str,
)
def test_4_bit_layers_of_any_size_are_multiplied(tmp_path: Path, sizes: dict, bfloat16: bool):
    given = options(model_name=str(tiny.save(tmp_path, **sizes)), load_in_4bit=True)
    with instructions(bfloat16):
        assert_computes_its_weights(LocalEngine(load(given)))


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("size", [(64, 64), (16, 64), (64, 32), (544, 832), (600, 832), (544, 800)], ids=str)
def test_which_4_bit_layers_can_be_multiplied_is_known_from_smaller_ones(
    size: tuple[int, int], bfloat16: bool
):
    with instructions(bfloat16), torch.inference_mode():
        layer = bnb.nn.LinearFP4(size[1], size[0]).to("cpu").eval()
        try:
            works = layer(torch.ones(1, size[1])).shape == (1, size[0])
        except (RuntimeError, AssertionError):
            works = False
        assert cpu.supports_4bit(*size) is works


def test_4_bits_that_cannot_be_multiplied_here_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cpu, "supports_4bit", lambda *size, packed=True: False)
    with pytest.raises(
        ConfigurationError, match=r"q_proj \(32 × 64\) in 4 bits on this CPU: set load_in_8bit"
    ):
        load(options(model_name=str(folder), load_in_4bit=True))


def test_what_was_quantized_is_saved_and_loaded_so_again(engine: LocalEngine, tmp_path: Path):
    before = engine.generate([ask("hi", max_new_tokens=8)])[0]
    engine.save(tmp_path)
    again = engine.loaded.options.model_copy(update={"model_name": str(tmp_path)})
    for one in (LocalEngine(load(again)), engine):
        assert one.generate([ask("hi", max_new_tokens=8)])[0].token_ids == before.token_ids
    other = "load_in_8bit" if again.load_in_4bit else "load_in_4bit"
    with pytest.raises(ConfigurationError, match=r"quantized already \(bitsandbytes\): leave load_in_8bit"):
        load(options(model_name=str(tmp_path), **{other: True}))


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("doubly", [False, True])
def test_4_bits_are_saved_to_the_last_one_after_they_have_been_multiplied(
    folder: Path, tmp_path: Path, bfloat16: bool, doubly: bool
):
    given = options(model_name=str(folder), load_in_4bit=True, bnb_4bit_use_double_quant=doubly)
    before = {name: weight.clone() for name, weight in load(given).model.state_dict().items()}
    with instructions(bfloat16):
        engine = LocalEngine(load(given))
        for number in range(2):
            engine.generate([ask("hi", max_new_tokens=2)])
            engine.save(tmp_path / str(number))
            again = load(options(model_name=str(tmp_path / str(number)))).model.state_dict()
            assert again.keys() == before.keys()
            assert all(torch.equal(weight, before[name]) for name, weight in again.items())


@pytest.mark.parametrize("bits", BITS)
def test_a_dtype_this_cpu_only_emulates_is_left_to_a_quantized_model(folder: Path, bits: int):
    loaded = load(options(model_name=str(folder), dtype="bfloat16", **{f"load_in_{bits}bit": True}))
    engine = LocalEngine(loaded)
    assert engine.loaded.model.dtype == torch.bfloat16
    assert engine.generate([ask("hi", max_new_tokens=4)])[0].error is None


def test_layers_that_are_skipped_keep_their_precision(folder: Path):
    given = {"load_in_8bit": True, "llm_int8_skip_modules": ["up_proj", "lm_head"]}
    layers = load(options(model_name=str(folder), **given)).model.model.layers
    assert {type(layer.mlp.up_proj) for layer in layers} == {nn.Linear}
    assert {type(layer.mlp.down_proj).__name__ for layer in layers} == {"Linear8bitLt"}


def test_an_encoder_decoder_and_an_encoder_are_quantized_too(tmp_path: Path, folder: Path):
    given = options(model_name=str(tiny.save(tmp_path, "t5")), load_in_8bit=True)
    answer = LocalEngine(load(given)).generate([ask("hi", max_new_tokens=4)])[0]
    assert answer.error is None
    embedder = LocalEngine(load(options(model_name=str(folder), load_in_4bit=True), task="embed"))
    assert embedder.embed(["one", "two"]).shape == (2, 64)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "t5", "bart"])
@pytest.mark.parametrize(
    "given",
    [
        {"load_in_8bit": True},
        {"load_in_4bit": True},
        {"load_in_8bit": True, "llm_int8_skip_modules": ["q_proj", "mlp"]},
        {"load_in_4bit": True, "bnb_4bit_use_double_quant": True},
    ],
    ids=str,
)
def test_the_plan_knows_what_quantized_weights_will_take(tmp_path: Path, architecture: str, given: dict):
    chosen = options(model_name=str(tiny.save(tmp_path, architecture)), **given)
    model = load(chosen).model
    taken = sum(weight.nbytes for weight in model.parameters())
    for weight in model.parameters():
        if (scales := getattr(weight, "SCB", None)) is not None:
            taken += scales.nbytes
        if (state := getattr(weight, "quant_state", None)) is not None:
            taken += state.absmax.nbytes + (state.state2.absmax.nbytes if state.nested else 0)
    with torch.device("meta"):
        empty = type(model)(tiny.random_model(architecture).config)
    assert weight_bytes(empty, torch.float32, quantization.quantization_config(chosen)) == taken
