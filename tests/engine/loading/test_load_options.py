"""Load options: each arrives at transformers as what it takes, or is refused before anything is read."""

import copy
import importlib.machinery
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from engine.configuration import split
from engine.environment import model_name_from_environment
from engine.errors import ConfigurationError, LoadError
from engine.loading import load
from engine.loading.files import find_file
from engine.loading.placement import attention_implementation
from engine.options import LoadOptions
from tests import tiny

ROOT = Path(__file__).parents[3]


@pytest.fixture
def arrived(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What was handed to `from_pretrained` of the auto classes, the model's and the tokenizer's."""
    calls: list[dict] = []
    for auto in (
        transformers.AutoModelForCausalLM,
        transformers.AutoModelForSeq2SeqLM,
        transformers.AutoTokenizer,
    ):

        def spy(name: str, real: Callable = auto.from_pretrained, auto: type = auto, **given):
            calls.append(copy.deepcopy({"auto": auto, "name": name} | given))
            return real(name, **given)

        monkeypatch.setattr(auto, "from_pretrained", spy)
    return calls


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"quantization_config": None, "offload_folder": None, "max_memory": None}),
        ({}, {"device_map": {"": torch.device("cpu")}, "attn_implementation": None, "use_safetensors": True}),
        ({"device_map": "auto"}, {"device_map": "auto"}),
        ({"device_map": "cpu"}, {"device_map": {"": torch.device("cpu")}}),
        (
            {"device_map": {"model": "cpu", "lm_head": "cpu"}},
            {"device_map": {"model": "cpu", "lm_head": "cpu"}},
        ),
        ({"device_map": "auto", "max_memory": {"cpu": "2GiB"}}, {"max_memory": {"cpu": "2GiB"}}),
        ({"attn_implementation": "eager"}, {"attn_implementation": "eager"}),
        ({"use_flash_attention": False}, {"attn_implementation": None}),
        ({"use_flash_attention": "False"}, {"attn_implementation": None}),
        ({"dtype": "float16"}, {"dtype": torch.float16}),
        ({"torch_dtype": "float16"}, {"dtype": torch.float16}),
        ({"is_causal_lm": True}, {"auto": transformers.AutoModelForCausalLM}),
    ],
    ids=str,
)
def test_an_option_arrives_at_transformers(
    tiny_model: Path, arrived: list[dict], given: dict, expected: dict
):
    options = split({"model_name": str(tiny_model), "device": "cpu"} | given).load
    load(options)
    assert {name: arrived[-1][name] for name in expected} == expected
    assert not {"load_in_8bit", "load_in_4bit"} & arrived[-1].keys()


@pytest.mark.parametrize("bits", [8, 4])
def test_quantization_arrives_as_bitsandbytes_settings(tiny_model: Path, arrived: list[dict], bits: int):
    load(LoadOptions(model_name=str(tiny_model), device="cpu", **{f"load_in_{bits}bit": True}))
    settings = arrived[-1]["quantization_config"]
    assert isinstance(settings, transformers.BitsAndBytesConfig)
    assert (settings.load_in_8bit, settings.load_in_4bit) == (bits == 8, bits == 4)


def test_loading_leaves_the_default_device_and_dtype_of_torch_alone(load_folder: Callable):
    before = torch.get_default_device(), torch.get_default_dtype()
    load_folder(dtype="bfloat16", device_map="auto")
    assert (torch.get_default_device(), torch.get_default_dtype()) == before


def test_what_the_memory_does_not_hold_is_offloaded_to_a_folder(
    tmp_path: Path, tiny_model: Path, arrived: list[dict]
):
    given = {"device_map": "auto", "max_memory": {"cpu": 100_000}, "offload_folder": str(tmp_path)}
    loaded = load(LoadOptions(model_name=str(tiny_model), device="cpu", **given))
    assert arrived[-1]["offload_folder"] == str(tmp_path)
    assert "disk" in loaded.model.hf_device_map.values()
    expected = load(LoadOptions(model_name=str(tiny_model), device="cpu")).model(torch.tensor([[5, 6]]))
    assert torch.allclose(loaded.model(torch.tensor([[5, 6]])).logits, expected.logits, atol=1e-3)


@pytest.mark.parametrize(
    "given",
    [{"device_map": {"": "disk"}}, {"device_map": "auto", "max_memory": {"cpu": 1}}],
    ids=["by name", "for lack of memory"],
)
def test_a_model_of_which_only_the_disk_holds_anything_is_refused_at_load(
    tmp_path: Path, tiny_model: Path, given: dict
):
    options = LoadOptions(model_name=str(tiny_model), device="cpu", offload_folder=str(tmp_path), **given)
    with pytest.raises(LoadError, match="cannot be run from the disk alone: no device has room"):
        load(options)


def test_weights_may_lie_in_a_folder_under_another_name(folders: dict[str, Path], arrived: list[dict]):
    options = LoadOptions(
        model_name="owner/name", local_path=str(folders["llama"]), revision="v9", device="cpu"
    )
    loaded = load(options)
    assert [call["name"] for call in arrived] == [str(folders["llama"])] * 2
    assert {call["revision"] for call in arrived} == {None}
    expected = tiny.random_model("llama").state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in loaded.model.state_dict().items())
    assert find_file(options, "config.json") == folders["llama"] / "config.json"


def test_a_folder_under_another_name_that_fails_is_named_by_both(folders: dict[str, Path]):
    with pytest.raises(LoadError, match=f"owner/name \\({folders['no-weights']}\\) cannot be loaded"):
        load(LoadOptions(model_name="owner/name", local_path=str(folders["no-weights"]), device="cpu"))
    with pytest.raises(ConfigurationError, match="local_path '/no/such' is not a folder"):
        load(LoadOptions(model_name="owner/name", local_path="/no/such"))


def test_another_tokenizer_is_taken_where_it_is_named(
    folders: dict[str, Path], tmp_path: Path, load_folder: Callable
):
    tiny.byte_tokenizer("other").save_pretrained(tmp_path)
    for name in ("llama", "no-tokenizer"):
        assert load_folder(name, tokenizer=str(tmp_path)).tokenizer.chat_template == "other"
    with pytest.raises(LoadError, match=r"/no/such is missing: .* Check the spelling of tokenizer"):
        load_folder(tokenizer="/no/such")


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("llama", None, "LlamaForCausalLM"),
        ("llama", True, "LlamaForCausalLM"),
        ("t5", None, "T5ForConditionalGeneration"),
        ("t5", False, "T5ForConditionalGeneration"),
    ],
)
def test_the_kind_of_model_is_the_configurations(
    load_folder: Callable, name: str, given: bool | None, expected: str
):
    assert type(load_folder(name, is_causal_lm=given).model).__name__ == expected


@pytest.mark.parametrize(
    ("name", "given", "says"),
    [("llama", False, "causal language model"), ("t5", True, "an encoder-decoder model")],
)
def test_a_kind_that_the_checkpoint_is_not_is_refused(
    load_folder: Callable, name: str, given: bool, says: str
):
    with pytest.raises(ConfigurationError, match=f"is_causal_lm is {str(given).lower()}, but .* is .*{says}"):
        load_folder(name, is_causal_lm=given)


# What cannot work on this machine


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"attn_implementation": "flash"}, "attn_implementation 'flash' is not available here: .* GPU"),
        ({"attn_implementation": "flash_attention_2"}, "'flash_attention_2' is not available here: .* GPU"),
        ({"use_flash_attention": True}, "use_flash_attention is not available here: .* GPU"),
        ({"use_flash_attention": True, "attn_implementation": "sdpa"}, "is true and .* 'sdpa': set one"),
        ({"use_flash_attention": False, "attn_implementation": "flash"}, "is false and .* 'flash': set one"),
        ({"device_map": "cuda:99"}, "device_map 'cuda:99' is not available here"),
        ({"device_map": {"model": "cpu", "lm_head": 99}}, "device_map 99 is not available here"),
        ({"device_map": "automatic"}, "device_map 'automatic' is not available here"),
        ({"device_map": "auto", "max_memory": {99: "1GiB"}}, "max_memory 99 is not available .*leave it out"),
        ({"device_map": "auto", "max_memory": {"cpu": "much"}}, "'max_memory': .*much.* write a size as"),
        ({"offload_folder": "/tmp/offload"}, "offload_folder is for device_map: set device_map"),
    ],
    ids=str,
)
def test_an_option_that_cannot_work_is_refused_before_anything_is_read(given: dict, says: str):
    with pytest.raises(ConfigurationError, match=says):
        load(LoadOptions(**{"model_name": "/no/such/folder", "device": "cpu"} | given))


def test_flash_attention_needs_its_package_also_on_a_gpu(monkeypatch: pytest.MonkeyPatch):
    gpu, options = torch.device("cuda"), LoadOptions(model_name="any", use_flash_attention=True)
    for package in ("flash_attn", "kernels"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigurationError, match=r"use_flash_attention .*pip install flash-attn"):
        attention_implementation(options, gpu)
    there = types.ModuleType("flash_attn")
    there.__spec__ = importlib.machinery.ModuleSpec("flash_attn", None)
    monkeypatch.setitem(sys.modules, "flash_attn", there)
    assert attention_implementation(options, gpu) == "flash_attention_2"
    short = LoadOptions(model_name="any", attn_implementation="flash")
    assert attention_implementation(short, gpu) == "flash_attention_2"


# The environment


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"MODEL_NAME": "a/b"}, "a/b"),
        ({"HF_MODEL_NAME": "c/d\n", "MODEL_NAME": "a/b"}, "c/d"),
        ({"HF_MODEL_NAME": " ", "MODEL_NAME": "a/b"}, "a/b"),
    ],
    ids=str,
)
def test_the_environment_may_name_the_model(
    monkeypatch: pytest.MonkeyPatch, environment: dict, expected: str | None
):
    for name in ("HF_MODEL_NAME", "MODEL_NAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert model_name_from_environment() == expected


def test_reading_the_environment_imports_nothing_heavy():
    code = "import sys, engine.environment; sys.exit(bool({'torch', 'transformers'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
