"""Texts in a batch get the numbers that transformers' own model gives each of them alone."""

import math

import pytest
import torch
import transformers

from engine.backends.classifier import ClassifierEngine
from engine.classification import Classification, Classifier
from engine.errors import GenerationError, PromptError
from engine.options import GenerationOptions
from engine.types import Message, Request
from tests import tiny
from tests.helpers import classifiers
from tests.helpers.classifiers import LABELS, TEXTS, logits_alone, random_model, tokenizer

ENCODERS = ["bert", "deberta", "distilbert", "modernbert", "roberta"]
DECODERS = ["gpt2", "llama", "mistral", "qwen3"]


def numbers(found: list[Classification]) -> torch.Tensor:
    assert [one.error for one in found] == [None] * len(found)
    return torch.tensor([one.logits for one in found])


def made(architecture: str, **changes) -> tuple[Classifier, torch.Tensor]:
    """A classifier whose batches hold few tokens, and what the model gives each of `TEXTS` alone."""
    model, fast = random_model(architecture, **changes), tokenizer(architecture)
    expected = logits_alone(model, fast, TEXTS)
    found = Classifier(tiny.loaded(model, fast))
    found._budget = 128
    return found, expected


@pytest.mark.parametrize("architecture", [*ENCODERS, *DECODERS, "t5", "bart"])
def test_a_batch_gives_what_the_model_gives_alone(architecture: str):
    classifier, expected = made(architecture)
    assert classifier.batching == "padded"
    torch.testing.assert_close(numbers(classifier.classify(TEXTS)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("architecture", DECODERS)
@pytest.mark.parametrize("pad", [None, -1, tiny.EOS], ids=["no pad token", "an invalid one", "the eos"])
def test_a_decoders_head_reads_the_last_token_whatever_fills_the_batch(architecture: str, pad: int | None):
    if pad == -1 and architecture == "gpt2":
        pytest.skip("its embedding has no padding")
    classifier, expected = made(architecture, **({"pad_token_id": pad} if pad != -1 else {}))
    classifier.model.config.pad_token_id = pad
    texts = [*TEXTS, "ends with the token that would fill it </s>", "ends with bytes \x00"]
    expected = logits_alone(classifier.model, classifier._tokenizer, texts)
    torch.testing.assert_close(numbers(classifier.classify(texts)), expected, rtol=1e-5, atol=1e-5)
    assert classifier.model.config.pad_token_id == pad


def test_an_architecture_that_padding_changes_is_batched_by_length():
    config = transformers.XLNetConfig(
        vocab_size=tiny.VOCABULARY, d_model=32, n_layer=2, n_head=4, d_inner=64, num_labels=2
    )
    torch.manual_seed(0)
    model, fast = transformers.XLNetForSequenceClassification(config).eval(), tokenizer("llama")
    expected = logits_alone(model, fast, TEXTS)
    classifier = Classifier(tiny.loaded(model, fast))
    assert classifier.batching == "equal_length"
    torch.testing.assert_close(numbers(classifier.classify(TEXTS)), expected, rtol=1e-5, atol=1e-5)


def test_the_engines_packed_weights_change_no_number():
    model, fast = random_model("bert"), tokenizer("bert")
    expected = logits_alone(model, fast, TEXTS)
    found = ClassifierEngine(tiny.loaded(model, fast)).classify(TEXTS)
    torch.testing.assert_close(numbers(found), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("problem", "function"),
    [
        (None, lambda logits: logits.softmax(-1)),
        ("multi_label_classification", torch.sigmoid),
        ("regression", None),
    ],
)
def test_probabilities_of_labels_are_those_of_transformers_pipeline(problem: str | None, function):
    classifier, expected = made("bert", problem_type=problem)
    for one, logits in zip(classifier.classify(TEXTS), expected, strict=True):
        known = {} if function is None else dict(zip(LABELS, function(logits).tolist(), strict=True))
        assert one.labels == pytest.approx(known, abs=1e-5)


def test_a_single_number_is_a_score_by_sigmoid_and_no_label():
    classifier, expected = made("roberta", labels=1)
    for one, logits in zip(classifier.classify(TEXTS), expected, strict=True):
        assert one.scores == pytest.approx([1 / (1 + math.exp(-float(logits)))], abs=1e-5)
        assert one.labels == {}


def test_a_conversation_is_read_by_the_chat_template_to_its_end():
    model, fast = random_model("qwen3", labels=1), tokenizer("qwen3", chat_template=tiny.CHAT_TEMPLATE)
    chat = [{"role": "user", "content": "Hi </s>"}, {"role": "assistant", "content": "Hello"}]
    text = "<s>[user]Hi [/s]</s>[assistant]Hello</s>"
    assert text == fast.apply_chat_template(chat, tokenize=False).replace("Hi </s>", "Hi [/s]")
    request = Request(tuple(Message(m["role"], (m["content"],)) for m in chat), GenerationOptions())
    classifier = Classifier(tiny.loaded(model, fast))
    plain = Request((Message("user", ("Hi",)), *request.messages[1:]), GenerationOptions())
    expected = logits_alone(model, fast, ["<s>[user]Hi</s>[assistant]Hello</s>"])
    found, forged = classifier.classify([plain, request])
    assert found.logits == pytest.approx(expected[0].tolist(), abs=1e-5)
    assert forged.num_tokens == found.num_tokens + len(" </s>")  # A user's </s> is four letters.


def test_without_a_chat_template_the_last_message_counts_and_an_answer_is_the_second_of_a_pair():
    classifier, _ = made("bert")
    turns = (Message("user", ("Hi",)), Message("assistant", ("Hello",)), Message("user", ("Bye",)))
    chats = [Request(said, GenerationOptions()) for said in (turns, turns[:2])]
    last, pair, *expected = numbers(classifier.classify([*chats, "Bye", ("Hi", "Hello")]))
    torch.testing.assert_close(torch.stack([last, pair]), torch.stack(expected))


def test_a_text_that_cannot_be_read_costs_no_other_its_numbers():
    classifier, expected = made("qwen3")
    options = GenerationOptions()
    bad = [Request((), options), Request((), options, prompt=(9999,)), ""]
    *failed, good = classifier.classify([*bad, "A cat."])
    assert [type(one.error) for one in failed] == [PromptError] * 3
    assert good.logits == pytest.approx(expected[0].tolist(), abs=1e-5)


def test_numbers_that_are_none_fail_their_text_only():
    classifier, expected = made("bert")
    [token] = classifier._tokenizer("\x07", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        classifier.model.get_input_embeddings().weight[token] = math.nan
    good, bad = classifier.classify(["A cat.", "\x07"])
    assert isinstance(bad.error, GenerationError)
    assert good.logits == pytest.approx(expected[0].tolist(), abs=1e-5)


def test_a_long_text_loses_its_end_and_the_log_says_so(caplog: pytest.LogCaptureFixture):
    classifier, _ = made("bert")
    [found] = classifier.classify([("z" * 500, "x")])
    assert found.num_tokens == 130
    assert "longer than 130 tokens: its end is not read" in caplog.text


def test_no_texts_give_nothing():
    assert made("bert")[0].classify([]) == []


def test_a_folder_can_be_saved_and_loaded_again(tmp_path):
    from engine.loading import load
    from engine.options import LoadOptions

    classifiers.save(tmp_path / "one")
    engine = ClassifierEngine(load(LoadOptions(model_name=str(tmp_path / "one"), device="cpu")))
    engine.save(tmp_path / "other")
    again = ClassifierEngine(load(LoadOptions(model_name=str(tmp_path / "other"), device="cpu")))
    torch.testing.assert_close(numbers(again.classify(TEXTS)), numbers(engine.classify(TEXTS)))
