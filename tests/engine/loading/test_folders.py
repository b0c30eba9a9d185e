"""What is wrong with a folder's files is said in one sentence that names the file and what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine.errors import LoadError
from engine.loading import load
from engine.options import LoadOptions
from tests import tiny
from tests.helpers.model_folders import rewrite

INDEX = "model.safetensors.index.json"
SHARD = "model-00002-of-00004.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
Break = Callable[[Path], object]


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model's folder with its weights in one file, in four, and in four that are pickled."""
    root = tmp_path_factory.mktemp("wholes")
    tiny.save(root / "one")
    tiny.random_model("llama").save_pretrained(root / "four", max_shard_size="40KB")
    tiny.byte_tokenizer().save_pretrained(root / "four")
    assert (root / "four" / SHARD).is_file()
    pickled = shutil.copytree(root / "four", root / "pickled")
    names = {}
    for file in sorted(pickled.glob("*.safetensors")):
        torch.save(load_file(file), pickled / f"pytorch_{file.stem}.bin")
        names |= dict.fromkeys(load_file(file), f"pytorch_{file.stem}.bin")
        file.unlink()
    (pickled / INDEX).unlink()
    index = {"metadata": {}, "weight_map": names}
    (pickled / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return {path.name: path for path in root.iterdir()}


def lost(*names: str) -> Break:
    return lambda folder: [file.unlink() for name in names for file in folder.glob(name)]


def write(name: str, content: str) -> Break:
    return lambda folder: (folder / name).write_text(content)


def cut(name: str, size: int) -> Break:
    """Leaves so many bytes of a file, or takes so many off its end."""
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def both(*breaks: Break) -> Break:
    return lambda folder: [one(folder) for one in breaks]


def pickle_as(name: str) -> Break:
    return lambda folder: torch.save({"a": torch.ones(3)}, folder / name)


NO_JSON = r" is not JSON \(.*\): download it again"
DAMAGED = r" is damaged or cut short \(.*\): download it again"
CASES: dict[str, tuple[str, Break, str]] = {
    "empty": ("one", lost("*"), r"it has no config\.json, .* set model_name to a folder or hub id"),
    "no config": ("one", lost("config.json"), r"it has no config\.json"),
    "config cut": ("one", cut("config.json", 9), r"its config\.json" + NO_JSON),
    "config empty": ("one", cut("config.json", 0), r"its config\.json" + NO_JSON),
    "config is a list": ("one", write("config.json", "[1]"), r"its config\.json is not a JSON object"),
    "config is a page": ("one", write("config.json", "<html>"), r"its config\.json" + NO_JSON),
    "config is a pointer": (
        "one",
        write("config.json", POINTER),
        r"its config\.json only stands for .* Git LFS",
    ),
    "config of wrong types": (
        "one",
        lambda folder: rewrite(folder, hidden_size="large"),
        "hidden_size.* expected int",
    ),
    "generation settings": (
        "one",
        write("generation_config.json", "{"),
        r"its generation_config\.json" + NO_JSON,
    ),
    "no tokenizer": ("one", lost("tokenizer*"), r"it has no tokenizer \(tokenizer\.json\): .* set tokenizer"),
    "tokenizer cut": ("one", cut("tokenizer.json", 50), r"its tokenizer\.json" + NO_JSON),
    "tokenizer's settings": (
        "one",
        write("tokenizer_config.json", "{"),
        r"its tokenizer_config\.json" + NO_JSON,
    ),
    "no weights": (
        "one",
        lost("*.safetensors"),
        r"it has no weights \(model\.safetensors\): download it again",
    ),
    "weights of another kind": (
        "one",
        both(lost("*.safetensors"), write("model.Q4.gguf", "GGUF")),
        r"no weights \(model\.safetensors\), and model\.Q4\.gguf is of another kind",
    ),
    "weights cut": ("one", cut("model.safetensors", -10), r"its model\.safetensors" + DAMAGED),
    "weights empty": ("one", cut("model.safetensors", 0), r"its model\.safetensors" + DAMAGED),
    "weights are a page": (
        "one",
        write("model.safetensors", "<html>" * 99),
        r"its model\.safetensors" + DAMAGED,
    ),
    "weights are a pointer": (
        "one",
        write("model.safetensors", POINTER),
        r"only stands for .* run git lfs pull",
    ),
    "weights are a pickle": ("one", pickle_as("model.safetensors"), r"its model\.safetensors" + DAMAGED),
    "a shard lost": (
        "four",
        lost(SHARD),
        rf"its {SHARD}, of the 4 files that {INDEX} names, is not there: download it again",
    ),
    "two shards lost": (
        "four",
        lost("*1-of*", "*3-of*"),
        r"its model-00001-of-\S+ and 1 more, of the 4 files",
    ),
    "a shard cut": ("four", cut(SHARD, 200), f"its {SHARD}" + DAMAGED),
    "a shard empty": ("four", cut(SHARD, 0), f"its {SHARD}" + DAMAGED),
    "no index": ("four", lost(INDEX), rf"it has model-00001-of-\S+, but no {INDEX}"),
    "index cut": ("four", cut(INDEX, 50), f"its {INDEX}" + NO_JSON),
    "index is a list": ("four", write(INDEX, "[]"), f"its {INDEX} does not say what is where"),
    "index without metadata": (
        "four",
        write(INDEX, '{"weight_map": {"a": "b.safetensors"}}'),
        "does not say what is where",
    ),
    "a pickled shard lost": (
        "pickled",
        lost("*2-of-00004.bin"),
        "its pytorch_model-00002-of-00004.bin, of the 4 files",
    ),
    "a pickled shard cut": (
        "pickled",
        cut("pytorch_model-00002-of-00004.bin", 900),
        r"00002-of-\S+" + DAMAGED,
    ),
}


@pytest.mark.parametrize("task", ["generate", "embed"])
@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_with_a_folder_is_named(wholes: dict[str, Path], tmp_path: Path, case: str, task: str):
    whole, broken, says = CASES[case]
    folder = Path(shutil.copytree(wholes[whole], tmp_path / "folder"))
    options = LoadOptions(model_name=str(folder), device="cpu", use_safetensors=whole != "pickled")
    assert load(options, task).model
    broken(folder)
    with pytest.raises(LoadError, match=f"folder cannot be loaded: .*{says}") as raised:
        load(options, task)
    assert "Pickled" not in str(raised.value)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__
    assert "\n" not in str(raised.value)


def test_a_folder_with_pickles_alone_names_the_option(wholes: dict[str, Path]):
    with pytest.raises(LoadError, match="Pickled weights can run code: set use_safetensors to false"):
        load(LoadOptions(model_name=str(wholes["pickled"]), device="cpu"))


def test_an_index_beside_whole_weights_is_not_looked_at(wholes: dict[str, Path], tmp_path: Path):
    folder = Path(shutil.copytree(wholes["one"], tmp_path / "folder"))
    (folder / "pytorch_model.bin.index.json").write_text('{"metadata": {}, "weight_map": {"a": "gone.bin"}}')
    assert load(LoadOptions(model_name=str(folder), device="cpu", use_safetensors=False)).model
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(LoadError, match=r"its model\.safetensors is damaged"):
        load(LoadOptions(model_name=str(folder), device="cpu", use_safetensors=False))


def test_a_damaged_file_of_the_hub_cache_is_named(
    wholes: dict[str, Path], tmp_path: Path, in_hub_cache: Callable
):
    folder = Path(shutil.copytree(wholes["one"], tmp_path / "folder"))
    cut("model.safetensors", 50)(folder)
    in_hub_cache("tiny/cut", folder)
    with pytest.raises(LoadError, match=r"tiny/cut cannot be loaded: its model\.safetensors is damaged"):
        load(LoadOptions(model_name="tiny/cut", device="cpu"))
