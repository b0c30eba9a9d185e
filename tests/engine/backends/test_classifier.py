"""A classifier answers by its most likely label, and says by which way it does what it cannot do."""

import pytest

from engine.backends.classifier import ClassifierEngine
from engine.errors import ConfigurationError, Unsupported
from engine.options import GenerationOptions
from engine.types import Answer, Message, Request
from tests import tiny
from tests.helpers.classifiers import LABELS, random_model, tokenizer


@pytest.fixture(scope="module")
def engine() -> ClassifierEngine:
    return ClassifierEngine(tiny.loaded(random_model("bert"), tokenizer("bert")))


@pytest.fixture(scope="module")
def reranker() -> ClassifierEngine:
    return ClassifierEngine(tiny.loaded(random_model("bert", labels=1), tokenizer("bert")))


def asked(engine: ClassifierEngine, text: str = "A cat.", **options) -> Answer:
    [answer] = engine.generate([Request((Message("user", (text,)),), GenerationOptions(**options))])
    return answer


def test_the_answer_is_the_most_likely_label_with_the_probability_of_each(engine: ClassifierEngine):
    answer = asked(engine)
    [found] = engine.classify(["A cat."])
    assert dict(answer.labels) == pytest.approx(found.labels)
    assert list(answer.labels) == LABELS
    assert answer.text == max(LABELS, key=answer.labels.get)
    assert answer.confidence == answer.labels[answer.text]
    assert answer.usage.prompt_tokens == len("<A cat.>")


def test_some_of_the_labels_share_the_probability(engine: ClassifierEngine):
    whole, some = asked(engine).labels, asked(engine, labels=LABELS[1:]).labels
    assert list(some) == LABELS[1:]
    assert some["bad"] == pytest.approx(whole["bad"] / (whole["bad"] + whole["neither"]))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"labels": ["good", "fine"]},
            r"labels has 'fine', and the model's own labels are good, bad",
        ),
        ({"labels": LABELS, "label_prior": True}, "label_prior is for a model that writes"),
        ({"response_format": {"type": "json_object"}}, "response_format is for a model that writes"),
        ({"system_prompt": "Be fair."}, "system_prompt: this model has no chat template"),
    ],
)
def test_an_option_that_it_cannot_follow_is_named(engine: ClassifierEngine, options: dict, says: str):
    error = asked(engine, **options).error
    assert isinstance(error, ConfigurationError)
    with pytest.raises(ConfigurationError, match=says):
        raise error


def test_a_reranker_has_no_label_to_answer_with(reranker: ClassifierEngine):
    with pytest.raises(Unsupported, match="a score and has no labels, and it writes no text: ask"):
        raise asked(reranker).error


def test_what_needs_another_head_is_refused_with_the_way(engine: ClassifierEngine):
    for call in (lambda: engine.embed(["A cat."]), lambda: engine.next_logits(["A cat."])):
        with pytest.raises(Unsupported, match=r"has a classification head.*rank.*task = \"embed\""):
            call()


def test_many_requests_are_classified_together_and_a_dropped_one_has_an_error(engine: ClassifierEngine):
    messages = (Message("user", ("A cat.",)),)
    gone = Request(messages, GenerationOptions(), cancelled=lambda: True)
    more = [Request((Message("user", (f"Cat {i}",)),), GenerationOptions()) for i in range(300)]
    answers = engine.generate([Request(messages, GenerationOptions()), gone, *more])
    assert [answer.finish_reason for answer in answers] == ["stop", "error", *["stop"] * 300]
