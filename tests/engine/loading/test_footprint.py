"""The memory footprint of a model is known before it is loaded, and so is what would make it fit."""

import contextlib
import logging
import re
import shutil
import sys
from pathlib import Path

import psutil
import pytest
import torch

from engine.errors import LoadError
from engine.loading import load
from engine.loading.footprint import MemoryFootprint, format_bytes, kv_token_bytes, weight_bytes
from engine.options import LoadOptions
from tests import tiny


def empty(architecture: str, **changes) -> torch.nn.Module:
    """A tiny model without weights."""
    model = tiny.random_model(architecture, **changes)
    with torch.device("meta"):
        return type(model)(model.config)


def free(monkeypatch: pytest.MonkeyPatch, memory: int, disk: int = 0) -> None:
    """Makes so many bytes free."""
    real = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: real._replace(available=memory))
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=disk))


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_take_what_the_plan_says(architecture: str, dtype: torch.dtype):
    taken = sum(weight.nbytes for weight in tiny.random_model(architecture).to(dtype).parameters())
    assert weight_bytes(empty(architecture), dtype) == taken


@pytest.mark.parametrize("architecture", tiny.IN_FLIGHT)
def test_keys_and_values_take_what_the_plan_says(architecture: str):
    engine = tiny.engine(architecture)
    assert kv_token_bytes(engine.loaded.model.config, torch.float32) == engine.batching.kv_token_bytes


@pytest.mark.parametrize("architecture", tiny.BATCHED)
def test_keys_and_values_of_other_models_take_what_the_plan_says(architecture: str):
    model = tiny.random_model(architecture)
    ids = torch.tensor([[5, 6, 7]])
    decoder = {"decoder_input_ids": ids} if model.config.is_encoder_decoder else {}
    cache = model(ids, **decoder, use_cache=True).past_key_values
    parts = [cache] if not decoder else [cache.self_attention_cache, cache.cross_attention_cache]
    taken = sum(layer.keys.nbytes + layer.values.nbytes for part in parts for layer in part.layers)
    assert 3 * kv_token_bytes(model.config, torch.float32) == taken


@pytest.mark.parametrize(("context_length", "tokens"), [(512, 512), (100_000, 4096), (None, 4096)])
def test_the_kv_cache_is_that_of_the_window_or_of_4096_tokens(context_length: int | None, tokens: int):
    footprint = MemoryFootprint(empty("llama"), torch.float32, None, context_length, {"cpu": 10**9})
    assert footprint.kv_cache == tokens * kv_token_bytes(footprint.model.config, torch.float32)
    assert f"a sequence of {tokens} tokens" in str(footprint)


def test_the_footprint_is_a_table_in_the_log_at_debug_only(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
):
    options = LoadOptions(model_name=str(tiny_model), device="cpu")
    with caplog.at_level(logging.DEBUG, "engine.loading"):
        load(options)
    assert re.search(r"memory footprint of .*\nweights +0\.1 MiB  in float32\n", caplog.text)
    assert re.search(r"KV cache +0\.1 MiB  of a sequence of 512 tokens\n", caplog.text)
    assert re.search(r"free +[0-9.]+ GiB  on cpu", caplog.text)
    caplog.clear()
    with caplog.at_level(logging.INFO, "engine.loading"):
        load(options)
    assert "memory footprint" not in caplog.text


def test_embedding_needs_no_kv_cache(tiny_model: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.DEBUG, "engine.loading"):
        load(LoadOptions(model_name=str(tiny_model), device="cpu"), task="embed")
    assert "memory footprint" in caplog.text
    assert "KV cache" not in caplog.text


# What would make it fit

WEIGHTS = weight_bytes(empty("llama"), torch.float32)
SETTINGS = {
    "dtype to bfloat16": {"dtype": "bfloat16"},
    "load_in_8bit to true": {"load_in_8bit": True},
    "load_in_4bit to true": {"load_in_4bit": True},
    "dtype to bfloat16 and load_in_8bit to true": {"dtype": "bfloat16", "load_in_8bit": True},
    "dtype to bfloat16 and load_in_4bit to true": {"dtype": "bfloat16", "load_in_4bit": True},
}


def refused(**options) -> str:
    """What is said about a model that is too large."""
    with pytest.raises(LoadError, match="is too large") as caught:
        load(LoadOptions(device="cpu", **options))
    return str(caught.value)


def ways(text: str) -> list[str]:
    """The settings that an error names."""
    return re.findall(r"[Ss]et (dtype to \w+ and \w+ to true|dtype to \w+|load_in_\w+ to true) \(", text)


@pytest.mark.parametrize("share", [0.99, 0.7, 0.6, 0.52, 0.45, 0.38, 0.3, 0.1])
def test_what_would_make_it_fit_does_and_all_else_does_not(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, share: float
):
    free(monkeypatch, int(WEIGHTS * share))
    named = ways(refused(model_name=str(tiny_model)))
    fits = []
    for way, setting in SETTINGS.items():
        with contextlib.suppress(LoadError):
            load(LoadOptions(model_name=str(tiny_model), device="cpu", **setting))
            fits.append(way)
    alone = [way for way in fits if " and " not in way]
    assert named == (alone or fits)


def test_nothing_is_named_where_nothing_would_make_it_fit(monkeypatch: pytest.MonkeyPatch, tiny_model: Path):
    free(monkeypatch, 1000)
    assert refused(model_name=str(tiny_model)).endswith("cpu has 0.0 MiB free. Take a smaller model")


def test_without_bitsandbytes_its_settings_are_not_named(monkeypatch: pytest.MonkeyPatch, tiny_model: Path):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    free(monkeypatch, WEIGHTS - 1)
    assert ways(refused(model_name=str(tiny_model))) == ["dtype to bfloat16"]


def test_a_disk_with_room_is_named_and_takes_what_is_too_much(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tmp_path: Path
):
    free(monkeypatch, WEIGHTS // 2, disk=WEIGHTS)
    text = refused(model_name=str(tiny_model))
    assert 'set device_map to "auto" and offload_folder to a folder of a disk' in text
    free(monkeypatch, WEIGHTS * 7 // 8, disk=WEIGHTS)
    loaded = load(
        LoadOptions(model_name=str(tiny_model), device="cpu", device_map="auto", offload_folder=str(tmp_path))
    )
    assert set(loaded.model.hf_device_map.values()) == {"cpu", "disk"}
    assert torch.isfinite(loaded.model(torch.tensor([[5, 6]])).logits).all()
    free(monkeypatch, WEIGHTS // 2, disk=WEIGHTS // 3)
    assert "offload_folder" not in refused(model_name=str(tiny_model))


def test_a_map_of_devices_is_held_to_what_they_have(monkeypatch: pytest.MonkeyPatch, tiny_model: Path):
    free(monkeypatch, WEIGHTS - 1, disk=WEIGHTS)
    text = refused(model_name=str(tiny_model), device_map={"": "cpu"})
    assert "dtype to bfloat16" in text
    assert "device_map" not in text


def test_a_quantized_model_that_is_too_large_says_so(monkeypatch: pytest.MonkeyPatch, tiny_model: Path):
    free(monkeypatch, WEIGHTS // 3)
    text = refused(model_name=str(tiny_model), load_in_8bit=True)
    assert "its weights take 0.1 MiB in 8 bits" in text
    assert "load_in_4bit" not in text


@pytest.mark.parametrize(
    ("size", "expected"), [(2**30, "1.0 GiB"), (2**20, "1.0 MiB"), (3 * 2**28, "0.8 GiB"), (0, "0.0 MiB")]
)
def test_sizes_are_written_for_people(size: int, expected: str):
    assert format_bytes(size) == expected
