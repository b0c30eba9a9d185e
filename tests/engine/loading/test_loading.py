"""Loading from a folder: a model ready to answer, or an error that says what is wrong and what to do."""

import shutil
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch
import transformers

from engine.errors import ConfigurationError, LoadError
from engine.loading import load
from engine.options import LoadOptions
from engine.weights.kernels import HALF_DTYPES
from tests import tiny
from tests.helpers.model_folders import rewrite


def test_a_folder_is_loaded_ready_to_answer(load_folder: Callable):
    loaded = load_folder()
    assert isinstance(loaded.model, transformers.LlamaForCausalLM)
    assert not loaded.model.training
    assert loaded.tokenizer.chat_template == tiny.CHAT_TEMPLATE
    expected = tiny.random_model("llama").state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in loaded.model.state_dict().items())


@pytest.mark.parametrize("name", ["/no/such/folder", "./nothing", "a/b/c", "no model"])
def test_a_folder_that_is_not_there_is_named(name: str):
    with pytest.raises(
        LoadError, match=f"{name} is missing: no such folder.* Check the spelling of model_name"
    ):
        load(LoadOptions(model_name=name))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("pickled", "set use_safetensors to false if you trust"),
        ("no-weights", r"it has no weights \(model\.safetensors\): download it again"),
        ("foreign", "Set trust_remote_code to true if you trust"),
        ("huge", "is too large: its weights take [0-9.]+ GiB in float32"),
        ("no-tokenizer", r"it has no tokenizer \(tokenizer\.json\): copy it there, or set tokenizer"),
        ("corrupt", r"its model\.safetensors is damaged or cut short \(.*\): download it again"),
    ],
)
def test_a_folder_that_cannot_be_loaded_says_why(load_folder: Callable, folders: dict, name: str, says: str):
    with pytest.raises(LoadError, match=f"{folders[name]}.*{says}"):
        load_folder(name)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "t5"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_is_too_large_where_its_weights_alone_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, dtype: str
):
    options = LoadOptions(model_name=str(tiny.save(tmp_path, architecture)), dtype=dtype, device="cpu")
    weights = sum(weight.nbytes for weight in load(options).model.parameters())
    memory = psutil.virtual_memory()
    for free in (weights, weights - 1):
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=free: memory._replace(available=free))
        if free == weights:
            assert load(options).model.dtype == getattr(torch, dtype)
        else:
            with pytest.raises(LoadError, match=f"is too large: its weights take .* in {dtype} and cpu has"):
                load(options)


def test_pickled_weights_of_a_folder_are_the_same_weights(load_folder: Callable):
    pickled, safe = load_folder("pickled", use_safetensors=False), load_folder()
    expected = safe.model.state_dict()
    assert all(torch.equal(weight, expected[name]) for name, weight in pickled.model.state_dict().items())


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("float32", torch.float32),
        ("bfloat16", torch.bfloat16),
        ("float16", torch.float16),
    ],
)
def test_weights_have_the_dtype_asked_for(load_folder: Callable, dtype: str, expected: torch.dtype):
    assert {weight.dtype for weight in load_folder(dtype=dtype).model.parameters()} == {expected}


@pytest.mark.parametrize(
    ("own", "instructions", "kept", "options", "expected"),
    [
        ("float32", False, True, {}, torch.float32),
        ("bfloat16", False, True, {}, torch.bfloat16),
        ("float16", False, True, {}, torch.float16),
        ("bfloat16", False, False, {}, torch.float32),
        ("bfloat16", True, False, {}, torch.bfloat16),
        ("bfloat16", False, True, {"device_map": "auto"}, torch.float32),
        ("bfloat16", False, True, {"load_in_8bit": True}, torch.float32),
    ],
)
def test_on_a_cpu_auto_is_the_checkpoints_own_dtype_where_it_is_fast(
    fake_cpu: Callable,
    folders: dict[str, Path],
    tmp_path: Path,
    own: str,
    instructions: bool,
    kept: bool,
    options: dict,
    expected: torch.dtype,
):
    half = shutil.copytree(folders["llama"], tmp_path / "half")
    rewrite(half, dtype=own)
    fake_cpu(native=HALF_DTYPES if instructions else (), fp16_storage=kept)
    loaded = load(LoadOptions(model_name=str(half), dtype="auto", device="cpu", **options))
    assert {weight.dtype for weight in loaded.model.parameters()} - {torch.int8} == {expected}


@pytest.mark.parametrize("device", ["cuda:99", "hpu", "abacus", ""])
def test_a_device_that_is_not_there_is_refused_before_anything_is_loaded(device: str):
    with pytest.raises(
        ConfigurationError, match=f"device '{device}' is not available here .*: use auto or cpu"
    ):
        load(LoadOptions(model_name="/no/such/folder", device=device))


@pytest.mark.parametrize(
    "options",
    [
        {"device_map": "auto"},
        {"device_map": {"": "cpu"}},
        {"device_map": "auto", "max_memory": {"cpu": "1GiB"}},
        {"attn_implementation": "eager"},
    ],
    ids=str,
)
def test_a_model_is_placed_and_computed_as_asked(load_folder: Callable, options: dict):
    loaded = load_folder(**options)
    assert loaded.model.config._attn_implementation == options.get("attn_implementation", "sdpa")
    assert torch.isfinite(loaded.model(torch.tensor([[5, 6]], device=loaded.model.device)).logits).all()


def test_an_attention_that_is_not_there_is_an_error_that_names_the_option(load_folder: Callable):
    with pytest.raises(LoadError, match="Leave attn_implementation out"):
        load_folder(attn_implementation="guesswork")


@pytest.mark.parametrize(
    ("architecture", "changes", "context_length"),
    [
        ("llama", {}, 512),
        ("gpt2", {"n_positions": 64}, 64),
        ("bart", {"max_position_embeddings": 128}, 128),
        ("t5", {}, None),
    ],
)
def test_the_window_is_the_models(
    tmp_path: Path, architecture: str, changes: dict, context_length: int | None
):
    folder = tiny.save(tmp_path, architecture, **changes)
    assert load(LoadOptions(model_name=str(folder))).context_length == context_length


def test_a_model_without_a_bound_has_its_tokenizers_window(tmp_path: Path):
    tiny.random_model("t5").save_pretrained(tmp_path)
    tiny.byte_tokenizer(model_max_length=100).save_pretrained(tmp_path)
    assert load(LoadOptions(model_name=str(tmp_path))).context_length == 100


# To embed


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [("llama", "LlamaModel"), ("t5", "T5EncoderModel"), ("bart", "BartModel"), ("bert", "BertModel")],
)
def test_to_embed_a_model_is_loaded_without_its_head(
    tmp_path: Path, capfd: pytest.CaptureFixture, architecture: str, expected: str
):
    if architecture == "bert":
        size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
        transformers.BertForMaskedLM(transformers.BertConfig(**size)).save_pretrained(tmp_path)
        tiny.byte_tokenizer().save_pretrained(tmp_path)
    else:
        tiny.save(tmp_path, architecture)
    options = LoadOptions(model_name=str(tmp_path), device="cpu")
    loaded = load(options, task="embed")
    assert type(loaded.model).__name__ == expected
    assert not loaded.model.training
    assert loaded.options == options
    assert "LOAD REPORT" not in capfd.readouterr().err
    assert transformers.logging.get_verbosity() == transformers.logging.WARNING


def test_to_embed_the_same_weights_are_loaded(load_folder: Callable, folders: dict[str, Path]):
    whole = load_folder("llama").model.base_model.state_dict()
    bare = load(LoadOptions(model_name=str(folders["llama"]), device="cpu"), task="embed").model.state_dict()
    assert whole.keys() == bare.keys()
    assert all(torch.equal(weight, bare[name]) for name, weight in whole.items())


def test_to_embed_a_checkpoint_has_to_be_complete(folders: dict[str, Path], tmp_path: Path):
    folder = rewrite(Path(shutil.copytree(folders["llama"], tmp_path / "short")), num_hidden_layers=3)
    with pytest.raises(LoadError, match=r"short has no weights for layers\.2\..* …"):
        load(LoadOptions(model_name=str(folder), device="cpu"), task="embed")


def test_off_a_terminal_loading_shows_no_bars(tmp_path: Path, capfd: pytest.CaptureFixture):
    tiny.save(tmp_path, "llama")
    transformers.utils.logging.enable_progress_bar()
    capfd.readouterr()
    load(LoadOptions(model_name=str(tmp_path)))
    printed = capfd.readouterr()
    assert printed.out + printed.err == ""
