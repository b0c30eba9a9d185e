"""What a repository brings that could run code, or read other files: never run where nobody trusts it."""

import json
import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.errors import LoadError
from engine.loading import load
from engine.options import LoadOptions
from tests import tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder, in which a test plants something."""
    return tiny.save(tmp_path / "model")


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """A file that is there once the code of the repository has run."""
    return tmp_path / "ran"


@pytest.fixture
def code(folder: Path, ran: Path) -> None:
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\n")


class Evil:
    """What creates a file when it is unpickled."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.ran}",)


def write(folder: Path, name: str, **changes: Any) -> None:
    """Changes a JSON file, or makes one."""
    path = folder / name
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | changes))


def refused(folder: Path, ran: Path, **options: Any) -> str:
    """Why a folder is not loaded, in whatever way it is tried; nothing of it has run."""
    reasons = set()
    for task in ("generate", "embed"):
        with pytest.raises(LoadError) as raised:
            load(LoadOptions(model_name=str(folder), **options), task)
        reasons.add(str(raised.value))
    assert not ran.exists()
    [reason] = reasons
    assert reason.startswith(str(folder))
    assert "\n" not in reason
    return reason


# Pickles

PICKLES: dict[str, Callable[[Any, Path], object]] = {
    "pickle": lambda value, path: path.write_bytes(pickle.dumps(value)),
    "torch": lambda value, path: torch.save(value, path),
    "old torch": lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=False),
    "nothing": lambda value, path: path.write_bytes(b""),
}


@pytest.mark.parametrize("use_safetensors", [True, False])
@pytest.mark.parametrize("form", PICKLES)
def test_a_pickle_named_safetensors_is_never_unpickled(folder, ran, form: str, use_safetensors: bool):
    PICKLES[form]({"a": Evil(ran)}, folder / "model.safetensors")
    assert "safetensors is damaged or cut short" in refused(folder, ran, use_safetensors=use_safetensors)


def index(folder: Path, shard: str) -> None:
    """An index of weights in place of the file that has them all."""
    (folder / "model.safetensors").unlink()
    names = dict.fromkeys(tiny.random_model("llama").state_dict(), shard)
    write(folder, "model.safetensors.index.json", metadata={}, weight_map=names)


@pytest.mark.parametrize("form", PICKLES)
def test_nor_is_one_that_an_index_names(folder, ran, form: str):
    index(folder, "a.safetensors")
    PICKLES[form]({"a": Evil(ran)}, folder / "a.safetensors")
    assert "safetensors is damaged or cut short" in refused(folder, ran)


def test_an_index_of_safetensors_names_no_pickles(folder, ran):
    index(folder, "weights.bin")
    torch.save(tiny.random_model("llama").state_dict(), folder / "weights.bin")
    assert "('weights.bin') in model.safetensors.index.json" in refused(folder, ran)
    assert load(LoadOptions(model_name=str(folder), use_safetensors=False)).model is not None


@pytest.mark.parametrize("above", ["..", "deeper/../..", "..\\.."])
def test_an_index_names_no_file_outside_of_the_folder(folder, ran, tmp_path: Path, above: str):
    (folder / "model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    (folder / "model.safetensors").touch()
    for name in (f"{above}/elsewhere.safetensors", str(tmp_path / "elsewhere.safetensors")):
        index(folder, name)
        assert "outside of its folder" in refused(folder, ran, use_safetensors=False)
        (folder / "model.safetensors").touch()


@pytest.mark.parametrize("content", ["[]", "{", '{"weight_map": 3}', "[" * 10**5, '{"weight_map": null}'])
def test_an_index_that_is_none_is_named(folder, ran, content: str):
    index(folder, "x")
    (folder / "model.safetensors.index.json").write_text(content)
    assert re.search(
        r"index.json (does not say what is where|is not JSON).*: download it again", refused(folder, ran)
    )


# Code


@pytest.mark.parametrize("auto_map", [{"AutoTokenizer": ["evil.T", "evil.T"]}, ["evil.T", None]])
def test_a_tokenizers_code_is_not_run(folder, ran, code, auto_map: Any):
    write(folder, "tokenizer_config.json", auto_map=auto_map, tokenizer_class="T")
    reason = refused(folder, ran)
    assert "needs code of its own, which is not run. Set trust_remote_code to true if you trust" in reason
    assert "http" not in reason


def test_where_a_tokenizer_has_a_class_of_transformers_too_that_is_taken_and_said(folder, ran, code, caplog):
    write(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.T", "evil.T"]})
    assert load(LoadOptions(model_name=str(folder))).tokenizer("a")["input_ids"]
    assert not ran.exists()
    assert (
        f"{folder} has code of its own for its tokenizer, which is not run: set trust_remote_code"
        in caplog.text
    )


@pytest.mark.parametrize(
    ("name", "auto_map"),
    [
        ("processor_config.json", {"AutoProcessor": "evil.P", "AutoTokenizer": ["evil.T", None]}),
        ("preprocessor_config.json", {"AutoProcessor": "evil.P", "AutoImageProcessor": "evil.P"}),
        ("config.json", {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M", "AutoModel": "evil.M"}),
        ("config.json", {"AutoTokenizer": ["evil.T", "evil.T"]}),
    ],
)
def test_code_that_is_not_needed_is_not_run(folder, ran, code, name: str, auto_map: dict):
    write(folder, name, auto_map=auto_map)
    assert load(LoadOptions(model_name=str(folder))).model is not None
    assert not ran.exists()


def test_nor_is_a_generate_of_the_repositorys_own(folder, ran):
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(f"open({str(ran)!r}, 'w')\n")
    assert load(LoadOptions(model_name=str(folder))).model is not None
    assert not ran.exists()


def test_nor_is_an_attention_of_the_hub(folder, caplog):
    write(folder, "config.json", attn_implementation="kernels-community/flash-attn")
    assert "/" not in load(LoadOptions(model_name=str(folder))).model.config._attn_implementation
    assert "asks for an attention that is code of the hub, which is not run" in caplog.text
    chosen = LoadOptions(model_name=str(folder), attn_implementation="eager")
    assert load(chosen).model.config._attn_implementation == "eager"
