"""Embedding: the vectors that sentence-transformers makes, and for each text those it has alone."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings, strategies
from pydantic import ValidationError
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules as parts
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from engine.embedding import Embedder
from engine.embedding.pooling import POOLINGS
from engine.errors import ConfigurationError, LoadError, Unsupported
from engine.loading import load
from engine.options import EmbeddingOptions, LoadOptions
from tests import tiny

TEXTS = [
    "A cat.",
    "",
    "Ünicode",
    "x",
    "A longer text, to be read in one batch with short ones.",
    "A Cat?",
    "z" * 90,
]

_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 130,
}
CONFIGS: dict[str, Callable] = tiny.CONFIGS | {
    "albert": lambda: transformers.AlbertConfig(**_SIZES, embedding_size=16),
    "bert": lambda: transformers.BertConfig(**_SIZES),
    "bloom": lambda: transformers.BloomConfig(hidden_size=32, n_layer=2, n_head=4),
    "convbert": lambda: transformers.ConvBertConfig(**_SIZES, embedding_size=32),
    "deberta": lambda: transformers.DebertaV2Config(
        **_SIZES, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=16
    ),
    "distilbert": lambda: transformers.DistilBertConfig(
        dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=130
    ),
    "fnet": lambda: transformers.FNetConfig(
        hidden_size=32, num_hidden_layers=2, intermediate_size=64, max_position_embeddings=130
    ),
    "longrope": lambda: transformers.Phi3Config(
        **_SIZES,
        pad_token_id=tiny.PAD,
        original_max_position_embeddings=20,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "short_factor": [1.0] * 4,
            "long_factor": [4.0] * 4,
            "original_max_position_embeddings": 20,
        },
    ),
    "mistral": lambda: transformers.MistralConfig(**_SIZES, num_key_value_heads=2, sliding_window=8),
    "modernbert": lambda: transformers.ModernBertConfig(
        **_SIZES,
        local_attention=8,
        global_attn_every_n_layers=2,
        cls_token_id=1,
        sep_token_id=2,
        pad_token_id=0,
    ),
    "mpnet": lambda: transformers.MPNetConfig(**_SIZES),
    "roberta": lambda: transformers.RobertaConfig(**_SIZES),
}
# How texts share a batch.
WAYS = {
    "packed": (
        "albert",
        "bert",
        "distilbert",
        "gpt2",
        "llama",
        "longrope",
        "mistral",
        "modernbert",
        "qwen3",
        "roberta",
    ),
    "padded": ("bart", "bloom", "deberta", "mpnet", "t5"),
    "level": ("convbert", "fnet"),
}
DECODERS = ("bloom", "gpt2", "llama", "longrope", "mistral", "phi3", "qwen3")


def random_model(architecture: str) -> PreTrainedModel:
    """A model without a language model's head, with random weights that tell tokens and places apart."""
    config = CONFIGS[architecture]()
    config.update({"vocab_size": tiny.VOCABULARY, "pad_token_id": tiny.PAD})
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1 and "norm" not in name.lower():
                weight.normal_(std=0.4)
    return model


def tokenizer(architecture: str, **kwargs) -> PreTrainedTokenizerFast:
    """A byte tokenizer; that of an encoder puts a token before and one behind each text."""
    fast = tiny.byte_tokenizer(None, **kwargs)
    if architecture not in DECODERS:
        around = [("<s>", tiny.BOS), ("</s>", tiny.EOS)]
        fast.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A </s>", special_tokens=around
        )
    return fast


def embedder(architecture: str, budget: int = 64) -> Embedder:
    """An embedder whose batches have few tokens, so that a few texts are several batches."""
    found = Embedder(tiny.loaded(random_model(architecture), tokenizer(architecture)))
    found.encoder.budget = budget
    return found


def alone(made: Embedder, text: str, layer: int = -1) -> np.ndarray:
    """The hidden states of one text, by the plain model: (tokens, dim)."""
    ids = made.tokenizer(text, truncation=True, max_length=made.encoder.window, return_tensors="pt")[
        "input_ids"
    ]
    with torch.inference_mode():
        states = made.encoder.model(input_ids=ids, output_hidden_states=True).hidden_states
    return states[layer][0].numpy()


def close(found: np.ndarray, expected: np.ndarray, size: float = 1.0) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * max(1.0, size))


# Of one model


@pytest.mark.parametrize(("architecture", "way"), [(name, way) for way in WAYS for name in WAYS[way]])
def test_a_text_has_the_vectors_it_has_alone(architecture: str, way: str):
    made = embedder(architecture)
    assert made.encoder.way == way
    texts = [text for text in TEXTS if made.tokenizer(text)["input_ids"]]
    for vector, states, text in zip(
        made.embed(texts), made.hidden_states(texts, reduction=None), texts, strict=True
    ):
        expected = alone(made, text)
        close(states, expected)
        close(vector, expected.mean(0))


@pytest.mark.parametrize("architecture", ["bert", "llama", "t5"])
def test_any_texts_in_any_order_have_the_vectors_they_have_alone(architecture: str):
    made = embedder(architecture, budget=40)
    single = functools.cache(lambda text: made.embed([text])[0])

    @settings(max_examples=25, deadline=None, database=None, derandomize=True)
    @given(strategies.lists(strategies.integers(0, 60), max_size=12))
    def check(lengths: list[int]) -> None:
        texts = [("abcdefghij" * 6)[:length] for length in lengths]
        vectors = made.embed(texts)
        assert vectors.shape == (len(texts), 32)
        for vector, text in zip(vectors, texts, strict=True):
            close(vector, single(text))

    check()


def test_a_padding_token_in_a_text_is_a_token_like_any_other():
    made = embedder("roberta")
    texts = ["a<pad>b and on", "c"]
    for vector, text in zip(made.embed(texts), texts, strict=True):
        close(vector, alone(made, text).mean(0))


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "t5", "mpnet"])
@pytest.mark.parametrize("layer", [-3, -1, 0, 1, 2])
def test_hidden_states_are_those_of_the_layer(architecture: str, layer: int):
    made = embedder(architecture)
    texts = ["A cat.", "A longer text than the first.", "x"]
    expected = [alone(made, text, layer) for text in texts]
    for found, own in zip(made.hidden_states(texts, layer, None), expected, strict=True):
        assert found.dtype == np.float32
        close(found, own, np.abs(own).max())
    for reduction in ("mean", "sum"):
        reduced = np.stack([getattr(own, reduction)(0) for own in expected])
        close(made.hidden_states(texts, layer, reduction), reduced, np.abs(reduced).max())


def test_a_layer_that_is_not_there_is_refused_with_those_that_are():
    made = embedder("llama")
    for layer in (3, -4):
        with pytest.raises(ConfigurationError, match=f"no layer {layer}: this model has -3 to 2"):
            made.hidden_states(["A cat."], layer)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_each_pooling_is_what_its_name_says(pooling: str):
    made = embedder("llama")
    states = alone(made, "A cat.")
    weights = np.arange(1, 7)[:, None]
    expected = {
        "cls": states[0],
        "lasttoken": states[-1],
        "max": states.max(0),
        "mean": states.mean(0),
        "mean_sqrt_len_tokens": states.sum(0) / np.sqrt(6),
        "sum": states.sum(0),
        "weightedmean": (states * weights).sum(0) / weights.sum(),
    }[pooling]
    vectors = made.embed(["A cat.", "Two."], EmbeddingOptions(pooling=pooling))
    assert vectors.dtype == np.float32
    close(vectors[0], expected)


def test_normalized_vectors_have_length_1():
    vectors = embedder("llama").embed(["A cat.", ""], EmbeddingOptions(normalize=True))
    close(np.linalg.norm(vectors, axis=1), np.array([1, 0]))


def test_no_texts_are_no_vectors():
    made = embedder("llama")
    assert made.embed([]).shape == made.hidden_states([]).shape == (0, 32)
    assert made.hidden_states([], reduction=None) == []


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_text_without_a_token_is_zeros(pooling: str):
    made = embedder("llama")
    for texts in (["", "A cat."], [""]):
        assert not made.embed(texts, EmbeddingOptions(pooling=pooling))[0].any()
        assert not made.hidden_states(texts)[0].any()
        assert made.hidden_states(texts, reduction=None)[0].shape == (0, 32)


def test_one_text_is_no_list_of_texts():
    with pytest.raises(TypeError, match="a list of texts is needed"):
        embedder("llama").embed("A cat.")


def test_prefixes_are_put_before_queries_and_documents():
    made = embedder("bert")
    options = EmbeddingOptions(query_prefix="query: ", document_prefix="text: ")
    for kind, prefix in ((None, ""), ("query", "query: "), ("document", "text: ")):
        close(made.embed(["A cat."], options, kind), made.embed([f"{prefix}A cat."]))


def test_a_kind_without_a_prompt_is_refused():
    with pytest.raises(ConfigurationError, match="no prompt 'passage': this model has query, document"):
        embedder("bert").embed(["A cat."], kind="passage")


@pytest.mark.parametrize(
    ("architecture", "tokens"),
    [("bert", 130), ("roberta", 129), ("mpnet", 128), ("gpt2", 512), ("llama", 512)],
)
def test_what_is_beyond_the_window_is_not_read(architecture: str, tokens: int):
    made = embedder(architecture)
    text = "abcdefghi " * 60
    assert len(made.hidden_states([text], reduction=None)[0]) == tokens
    assert made.embed([text], EmbeddingOptions(max_length=1000)).shape == (1, 32)


def test_max_length_counts_special_tokens_and_leaves_them_where_they_are():
    made = embedder("bert")
    close(made.embed(["A cat and a dog."], EmbeddingOptions(max_length=7)), made.embed(["A cat"]))
    with pytest.raises(ConfigurationError, match="max_length 1 is no more than the special tokens"):
        made.embed(["A cat."], EmbeddingOptions(max_length=1))


def test_options_that_cannot_be_are_refused():
    for options in ({"pooling": "median"}, {"max_length": 0}, {"dimensions": 3}):
        with pytest.raises(ValidationError):
            EmbeddingOptions(**options)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "t5", "bart"])
def test_a_model_loaded_to_answer_embeds_without_its_head(architecture: str):
    model = tiny.random_model(architecture)
    made = Embedder(tiny.loaded(model, tokenizer(architecture)))
    plain = model.get_encoder() if model.config.is_encoder_decoder else model.base_model
    ids = made.tokenizer("A cat.", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        expected = plain(input_ids=ids).last_hidden_state[0].mean(0)
    close(made.embed(["A cat.", "Another, longer one."])[0], expected.numpy())


def test_bfloat16_vectors_are_close_to_float32_ones():
    half = Embedder(tiny.loaded(random_model("llama").bfloat16(), tokenizer("llama")))
    texts = ["A cat.", "A longer text than the first."]
    assert half.encoder.way == "packed"
    np.testing.assert_allclose(half.embed(texts), embedder("llama").embed(texts), atol=0.2)


# Of a sentence-transformers folder


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
    """Checks that the folder's vectors are those of sentence-transformers."""
    made = of_folder(folder)
    made.encoder.budget = 64
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
    close(plain.embed(["A cat."])[0], alone(plain, "A cat.").mean(0))


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
