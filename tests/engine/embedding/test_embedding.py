"""Embeddings equal those of sentence-transformers, and those that each text has alone."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies

from engine.embedding import Embedder
from engine.embedding.pooling import POOLINGS
from engine.errors import ConfigurationError, PromptError
from engine.options import EmbeddingOptions
from tests import tiny
from tests.helpers.embedding_models import (
    BATCHINGS,
    TEXTS,
    close,
    embedder,
    random_model,
    states_alone,
    tokenizer,
)

pytestmark = pytest.mark.numeric


@pytest.mark.parametrize(
    ("architecture", "batching"),
    [(name, batching) for batching, names in BATCHINGS.items() for name in names],
)
def test_a_text_has_the_vectors_it_has_alone(architecture: str, batching: str):
    made = embedder(architecture)
    assert made.reader.batching == batching
    texts = [text for text in TEXTS if made.tokenizer(text)["input_ids"]]
    for vector, states, text in zip(
        made.embed(texts), made.hidden_states(texts, reduction=None), texts, strict=True
    ):
        expected = states_alone(made, text)
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
        close(vector, states_alone(made, text).mean(0))


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "t5", "mpnet"])
@pytest.mark.parametrize("layer", [-3, -1, 0, 1, 2])
def test_hidden_states_are_those_of_the_layer(architecture: str, layer: int):
    made = embedder(architecture)
    texts = ["A cat.", "A longer text than the first.", "x"]
    expected = [states_alone(made, text, layer) for text in texts]
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
    states = states_alone(made, "A cat.")
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
    with pytest.raises(PromptError, match="a list of texts is needed"):
        embedder("llama").embed("A cat.")


def test_prefixes_are_put_before_queries_and_documents():
    made = embedder("bert")
    options = EmbeddingOptions(query_prefix="query: ", document_prefix="text: ")
    for kind, prefix in ((None, ""), ("query", "query: "), ("document", "text: ")):
        close(made.embed(["A cat."], options, kind), made.embed([f"{prefix}A cat."]))


def test_a_kind_without_a_prompt_is_refused():
    with pytest.raises(ConfigurationError, match="no kind 'passage': this model has query, document"):
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


def test_invalid_options_are_refused():
    for options in ({"pooling": "median"}, {"max_length": 0}, {"dimensions": 0}):
        with pytest.raises(ConfigurationError):
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
    assert half.reader.batching == "packed"
    np.testing.assert_allclose(half.embed(texts), embedder("llama").embed(texts), atol=0.2)


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_texts_that_do_not_fit_into_memory_together_are_read_apart(architecture: str, caplog):
    made = embedder(architecture, budget=10_000)
    texts = [*TEXTS, "y", "also short", "Another text, of some length."]
    expected = made.embed(texts)

    def fail(module: torch.nn.Module, args: tuple, output: torch.Tensor) -> None:
        if args[0].numel() > 100:
            raise torch.OutOfMemoryError("no memory for so many tokens")

    with made.reader.model.get_input_embeddings().register_forward_hook(fail):
        close(made.embed(texts), expected)
        assert "(OutOfMemoryError: no memory for so many tokens): trying halves" in caplog.text
        with pytest.raises(torch.OutOfMemoryError):
            made.embed(["z" * 120])
