"""A LoRA adapter is merged into its base model, alone or beside whole weights; what cannot be is refused."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from engine.backends.local import LocalEngine
from engine.errors import LoadError
from engine.loading import load
from engine.options import LoadOptions
from tests import tiny
from tests.helpers.talk import ask

peft = pytest.importorskip("peft", reason="peft is in requirements-dev.txt")
TOKENS = torch.tensor([[5, 6, 7, 8, 40, 41]])


def train(
    folder: Path, base: Path, auto: type = transformers.AutoModelForCausalLM, **settings
) -> torch.Tensor:
    """Saves an adapter with random weights; the logits (or hidden states) of base and adapter together."""
    settings = {"r": 4, "target_modules": ["q_proj", "v_proj", "down_proj"]} | settings
    torch.manual_seed(3)
    model = auto.from_pretrained(base)
    adapted = peft.get_peft_model(model, peft.LoraConfig(**settings, init_lora_weights=False)).eval()
    adapted.save_pretrained(folder)
    with torch.no_grad():
        return adapted(TOKENS)[0]


def loaded(folder: Path, task: str = "generate", **options) -> transformers.PreTrainedModel:
    return load(LoadOptions(model_name=str(folder), device="cpu", **options), task).model


@torch.no_grad()
def output(model: transformers.PreTrainedModel) -> torch.Tensor:
    return model(TOKENS)[0]


@pytest.fixture
def adapter(tmp_path: Path, tiny_model: Path) -> Path:
    train(tmp_path / "adapter", tiny_model, task_type="CAUSAL_LM")
    return tmp_path / "adapter"


def rewrite(adapter: Path, **changes) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"task_type": "CAUSAL_LM"},
        {"use_rslora": True, "lora_alpha": 3},
        {"use_dora": True},
        {"target_modules": "all-linear", "bias": "none"},
        {"modules_to_save": ["lm_head"]},
        {"target_modules": ["embed_tokens", "k_proj"]},
    ],
    ids=str,
)
def test_an_adapter_alone_is_merged_into_the_base_model_it_names(
    tmp_path: Path, tiny_model: Path, settings: dict
):
    expected = train(tmp_path / "adapter", tiny_model, **settings)
    model = loaded(tmp_path / "adapter")
    assert type(model) is transformers.LlamaForCausalLM
    torch.testing.assert_close(output(model), expected, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(expected, output(loaded(tiny_model)), atol=0.1)
    assert not any("lora" in name for name, _ in model.named_modules())


def test_an_adapter_beside_whole_weights_is_merged_into_these(tmp_path: Path, tiny_model: Path):
    folder = Path(shutil.copytree(tiny_model, tmp_path / "both"))
    expected = train(folder, tiny_model)
    rewrite(folder, base_model_name_or_path="/gone")
    torch.testing.assert_close(output(loaded(folder)), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("auto", [transformers.AutoModelForCausalLM, transformers.AutoModel])
def test_to_embed_an_adapter_is_merged_whatever_it_was_trained_under(
    tmp_path: Path, tiny_model: Path, auto: type
):
    train(tmp_path / "adapter", tiny_model, auto)
    base = transformers.AutoModel.from_pretrained(
        tmp_path / "adapter" if auto is transformers.AutoModel else tiny_model
    )
    if auto is not transformers.AutoModel:
        whole = transformers.AutoModelForCausalLM.from_pretrained(tiny_model)
        base = peft.PeftModel.from_pretrained(whole, tmp_path / "adapter").base_model.model.model
    expected = output(base.eval())
    torch.testing.assert_close(output(loaded(tmp_path / "adapter", "embed")), expected, atol=1e-3, rtol=1e-3)


def test_an_encoder_decoder_has_adapters_too(tmp_path: Path):
    base = tiny.save(tmp_path / "t5", "t5")
    torch.manual_seed(3)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(base)
    settings = peft.LoraConfig(target_modules=["q", "v"], init_lora_weights=False, task_type="SEQ_2_SEQ_LM")
    adapted = peft.get_peft_model(model, settings).eval()
    adapted.save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        expected = adapted(TOKENS, decoder_input_ids=TOKENS).logits
        found = loaded(tmp_path / "adapter")(TOKENS, decoder_input_ids=TOKENS).logits
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)


def test_what_was_merged_answers_and_is_saved_whole(adapter: Path, tmp_path: Path):
    engine = LocalEngine(load(LoadOptions(model_name=str(adapter), device="cpu")))
    [answer] = engine.generate([ask("hi", max_new_tokens=8)])
    assert answer.error is None
    engine.save(tmp_path / "saved")
    assert not (tmp_path / "saved" / "adapter_config.json").exists()
    again = LocalEngine(load(LoadOptions(model_name=str(tmp_path / "saved"), device="cpu")))
    assert again.generate([ask("hi", max_new_tokens=8)])[0].token_ids == answer.token_ids


def test_the_adapters_tokenizer_and_the_tokens_it_adds_are_taken(tmp_path: Path, tiny_model: Path):
    tokenizer = tiny.byte_tokenizer("own template")
    tokenizer.add_tokens(["<|more|>"])
    torch.manual_seed(3)
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model)
    model.resize_token_embeddings(len(tokenizer))
    settings = peft.LoraConfig(
        target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"], init_lora_weights=False
    )
    adapted = peft.get_peft_model(model, settings).eval()
    adapted.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = load(LoadOptions(model_name=str(tmp_path), device="cpu"))
    assert found.tokenizer.chat_template == "own template"
    with torch.no_grad():
        torch.testing.assert_close(output(found.model), adapted(TOKENS).logits, atol=1e-3, rtol=1e-3)
    assert output(found.model).shape[-1] == len(tokenizer)


def test_an_adapter_is_merged_into_quantized_weights(adapter: Path, tiny_model: Path):
    exact, near = output(loaded(adapter)), output(loaded(adapter, load_in_8bit=True))
    assert 0 < (exact - near).norm() / exact.norm() < 0.2


def test_a_repository_of_the_hub_is_read_like_a_folder(
    adapter: Path, tiny_model: Path, in_hub_cache: Callable
):
    in_hub_cache("tiny/base", tiny_model)
    rewrite(adapter, base_model_name_or_path="tiny/base")
    in_hub_cache("tiny/adapter", adapter)
    model = load(LoadOptions(model_name="tiny/adapter", device="cpu")).model
    torch.testing.assert_close(output(model), output(loaded(adapter)))


# What cannot be


def test_without_peft_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch, adapter: Path):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(LoadError, match=r"is an adapter \(adapter_config\.json\).*: pip install peft"):
        loaded(adapter)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"base_model_name_or_path": None}, "names no base model: set base_model_name_or_path there"),
        ({"base_model_name_or_path": "/gone"}, "its base model .* is not available: /gone is missing"),
        ({"task_type": "SEQ_CLS"}, "is an adapter for SEQ_CLS and writes no text"),
        ({"peft_type": None}, "of a kind that peft does not know"),
    ],
    ids=str,
)
def test_an_adapter_that_cannot_be_used_says_why(adapter: Path, changes: dict, says: str):
    rewrite(adapter, **changes)
    with pytest.raises(LoadError, match=says):
        loaded(adapter)


def test_an_adapter_of_another_base_model_is_refused(adapter: Path, tmp_path: Path):
    rewrite(adapter, base_model_name_or_path=str(tiny.save(tmp_path / "deeper", num_hidden_layers=3)))
    with pytest.raises(LoadError, match=r"for another base model: it has no weights for .*layers\.2\."):
        loaded(adapter)
    rewrite(adapter, base_model_name_or_path=str(tiny.save(tmp_path / "shallow", num_hidden_layers=1)))
    with pytest.raises(LoadError, match=r"for another base model: it has weights for .*layers\.1\."):
        loaded(adapter)
    rewrite(adapter, base_model_name_or_path=str(tiny.save(tmp_path / "wide", intermediate_size=48)))
    with pytest.raises(LoadError, match=r"size mismatch|48"):
        loaded(adapter)


def test_an_adapter_that_lacks_a_weight_is_refused(adapter: Path):
    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    lost = weights.pop(next(key for key in weights if "lora_B" in key))
    assert lost.any()
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(LoadError, match=r"it has no weights for .*lora_B"):
        loaded(adapter)


def test_an_adapters_pickled_weights_are_read_when_asked_for(adapter: Path):
    expected = output(loaded(adapter))
    file = adapter / "adapter_model.safetensors"
    torch.save(load_file(file), adapter / "adapter_model.bin")
    file.unlink()
    with pytest.raises(LoadError, match="set use_safetensors to false if you trust"):
        loaded(adapter)
    torch.testing.assert_close(output(loaded(adapter, use_safetensors=False)), expected)


def test_an_adapter_of_another_kind_is_refused(tmp_path: Path, tiny_model: Path):
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_model)
    settings = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
    peft.get_peft_model(model, settings).save_pretrained(tmp_path)
    with pytest.raises(LoadError, match="of the kind PREFIX_TUNING, which cannot be merged"):
        loaded(tmp_path)
