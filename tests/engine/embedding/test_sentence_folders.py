"""Settings of a sentence-transformers folder apply, and its embeddings equal those of that library."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as parts

from engine.embedding import Embedder
from engine.errors import LoadError, Unsupported
from engine.loading import load
from engine.options import EmbeddingOptions, LoadOptions
from tests.helpers.embedding_models import TEXTS, close, random_model, states_alone, tokenizer


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A sentence-transformers folder for an encoder, a decoder and the encoder of an encoder-decoder."""
    found = {}
    for name in ("bert", "llama", "t5"):
        plain, found[name] = (tmp_path_factory.mktemp(name) for _ in range(2))
        random_model(name).save_pretrained(plain)
        tokenizer(name).save_pretrained(plain)
        first = parts.Transformer(str(plain))
        torch.manual_seed(1)
        whole = [first, parts.Pooling(32), parts.Dense(32, 8), parts.Normalize()]
        prompts = {"query": "query: ", "sort": "Sort: "}
        SentenceTransformer(modules=whole, prompts=prompts, device="cpu").save(str(found[name]))
    return found


@pytest.fixture
def changed(folders: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """A folder by its name, with other settings in files of it; None takes a setting away."""

    def change(name: str, files: dict[str, dict] | None = None, modules: tuple[int, ...] = (0, 1)) -> Path:
        folder = Path(shutil.copytree(folders[name], tmp_path / "folder", dirs_exist_ok=True))
        for file, values in (files or {}).items():
            path = folder / file
            own = json.loads(path.read_text()) | values
            path.write_text(json.dumps({key: value for key, value in own.items() if value is not None}))
        listed = json.loads((folder / "modules.json").read_text())
        (folder / "modules.json").write_text(json.dumps([listed[i] for i in modules]))
        return folder

    return change


def of_folder(folder: Path) -> Embedder:
    return Embedder(load(LoadOptions(model_name=str(folder), device="cpu"), task="embed"))


def same(folder: Path, **encode) -> Embedder:
    """Checks that the folder's embeddings equal those of sentence-transformers."""
    made = of_folder(folder)
    made.reader.budget = 64
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, **encode)
    found = made.embed(TEXTS, kind=encode.get("prompt_name"))
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    close(found, expected)
    return made


@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
@pytest.mark.parametrize("mode", [None, *parts.Pooling.POOLING_MODES])
def test_the_folders_pooling_is_taken(changed: Callable, name: str, mode: str | None):
    # Of a text without a token, sentence-transformers makes with some modes what depends on its batch.
    texts = [text for text in TEXTS if text or name != "llama" or "mean" in (mode or "mean")]
    folder = changed(name, {"1_Pooling/config.json": {"pooling_mode": mode}})
    close(of_folder(folder).embed(texts), SentenceTransformer(str(folder), device="cpu").encode(texts))


@pytest.mark.parametrize("name", ["bert", "llama", "t5"])
def test_all_modules_of_a_folder_work_one_after_the_other(changed: Callable, name: str):
    same(changed(name, modules=(0, 1, 2, 3)))


LEGACY = {
    "pooling_mode": None,
    "word_embedding_dimension": 32,
    "pooling_mode_mean_tokens": True,
    "pooling_mode_cls_token": True,
    "pooling_mode_max_tokens": False,
}


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("bert", {"1_Pooling/config.json": LEGACY}),
        ("bert", {"1_Pooling/config.json": {"pooling_mode": ["mean", "cls"]}}),
        ("bert", {"sentence_bert_config.json": {"max_seq_length": 12}}),
        ("t5", {"tokenizer_config.json": {"model_max_length": 12}}),
        ("llama", {"sentence_bert_config.json": {"max_seq_length": 12}}),
        ("bert", {"sentence_bert_config.json": {"do_lower_case": True}}),
        ("bert", {"config_sentence_transformers.json": {"truncate_dim": 5}}),
        ("llama", {"config_sentence_transformers.json": {"default_prompt_name": "sort"}}),
    ],
    ids=lambda value: str(value)[:60],
)
def test_the_folders_settings_are_taken(changed: Callable, name: str, files: dict):
    plain = of_folder(changed(name)).embed(TEXTS)
    found = same(changed(name, files)).embed(TEXTS)
    assert found.shape != plain.shape or not np.allclose(found, plain, atol=1e-3)


@pytest.mark.parametrize("name", ["bert", "llama"])
@pytest.mark.parametrize("mode", ["mean", "weightedmean"])
@pytest.mark.parametrize("include", [True, False])
def test_the_folders_prompts_are_taken(changed: Callable, name: str, mode: str, include: bool):
    folder = changed(name, {"1_Pooling/config.json": {"include_prompt": include, "pooling_mode": mode}})
    made = same(folder, prompt_name="query")
    assert not np.allclose(made.embed(["A cat."]), made.embed(["A cat."], kind="query"), atol=1e-3)
    given = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, prompt="Q ")
    close(made.embed(TEXTS, EmbeddingOptions(query_prefix="Q "), kind="query"), given)


def test_options_are_stronger_than_the_folder(changed: Callable):
    folder = changed("bert", {"sentence_bert_config.json": {"max_seq_length": 12}}, modules=(0, 1, 3))
    other = SentenceTransformer(str(folder), device="cpu")
    other.max_seq_length = 20
    other[1].pooling_mode = "cls"
    del other[2]
    options = EmbeddingOptions(pooling="cls", normalize=False, max_length=20)
    close(of_folder(folder).embed(TEXTS, options), other.encode(TEXTS))
    options = EmbeddingOptions(pooling="cls", max_length=20)
    close(of_folder(folder).embed(TEXTS, options), other.encode(TEXTS, normalize_embeddings=True))


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"sentence_bert_config.json": {"transformer_task": "fill-mask"}}, "transformer_task 'fill-mask'"),
        ({"sentence_bert_config.json": {"config_args": {"is_causal": False}}}, "config_args"),
        ({"sentence_bert_config.json": {"modality_config": {"message": {}}}}, r"chat template \(message\)"),
        ({"sentence_bert_config.json": {"modality_config": {"image": {}}}}, "image"),
        ({"1_Pooling/config.json": {"pooling_mode": "median"}}, "pooling_mode 'median'"),
        ({"2_Dense/config.json": {"activation_function": "os.system"}}, "os.system"),
        ({"2_Dense/config.json": {"use_residual": True}}, "use_residual"),
        ({"3_Normalize/config.json": {"module_input_name": "token_embeddings"}}, "token_embeddings"),
    ],
    ids=str,
)
def test_what_is_not_supported_is_named(changed: Callable, files: dict, says: str):
    with pytest.raises(Unsupported, match=f"folder cannot embed: .*{says}"):
        of_folder(changed("bert", files, modules=(0, 1, 2, 3)))


@pytest.mark.parametrize("module", ["sentence_transformers.models.LSTM", "mine.Pooling"])
def test_a_module_that_is_not_supported_is_named(changed: Callable, module: str):
    folder = changed("bert")
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = module
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(Unsupported, match=f"its module {module}"):
        of_folder(folder)


def test_a_repository_of_the_hub_is_read_like_a_folder(
    changed: Callable, tiny_model: Path, in_hub_cache: Callable
):
    folder = changed("bert", {"1_Pooling/config.json": {"pooling_mode": "cls"}}, modules=(0, 1, 2, 3))
    in_hub_cache("tiny/sentences", folder)
    options = LoadOptions(model_name="tiny/sentences", device="cpu")
    close(Embedder(load(options, task="embed")).embed(TEXTS), of_folder(folder).embed(TEXTS))
    in_hub_cache("tiny/plain", tiny_model)
    plain = Embedder(load(LoadOptions(model_name="tiny/plain", device="cpu"), task="embed"))
    close(plain.embed(["A cat."])[0], states_alone(plain, "A cat.").mean(0))


def test_settings_that_cannot_be_read_are_a_load_error(changed: Callable):
    folder = changed("bert")
    (folder / "modules.json").write_text("[")
    with pytest.raises(LoadError, match="folder cannot be loaded"):
        of_folder(folder)


def test_a_modules_pickled_weights_are_read_when_asked_for(changed: Callable):
    folder = changed("bert", modules=(0, 1, 2))
    vectors = of_folder(folder).embed(TEXTS)
    dense = parts.Dense.load(str(folder), subfolder="2_Dense")
    (folder / "2_Dense" / "model.safetensors").unlink()
    torch.save(dense.state_dict(), folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(LoadError, match="set use_safetensors to false if you trust"):
        of_folder(folder)
    options = LoadOptions(model_name=str(folder), device="cpu", use_safetensors=False)
    close(Embedder(load(options, task="embed")).embed(TEXTS), vectors)


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_an_old_folder_has_its_transformer_in_a_folder_of_its_own(changed: Callable, name: str):
    folder = changed(name)
    whole = of_folder(folder)
    expected = whole.embed(TEXTS)
    modules = json.loads((folder / "modules.json").read_text())
    inner = folder / "0_Transformer"
    inner.mkdir()
    kept = ("modules.json", "config_sentence_transformers.json")
    for file in [path for path in folder.iterdir() if path.is_file() and path.name not in kept]:
        file.rename(inner / file.name)
    modules[0] |= {"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}
    (folder / "modules.json").write_text(json.dumps(modules))
    old = of_folder(folder)
    close(old.embed(TEXTS), expected)
    assert old.settings == whole.settings


def test_fewer_dimensions_are_those_of_truncate_dim(folders: dict[str, Path]):
    short = SentenceTransformer(str(folders["bert"]), device="cpu", truncate_dim=4)
    expected = short.encode(TEXTS, normalize_embeddings=True)
    made = of_folder(folders["bert"])
    close(made.embed(TEXTS, EmbeddingOptions(dimensions=4)), expected)
