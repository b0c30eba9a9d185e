"""Label mode: the answer is one of the given labels, by the probabilities that the model gives them."""

import math

import pytest

from engine.backends.local import LocalEngine
from engine.configuration import split
from engine.contract import gathered
from engine.errors import ConfigurationError, GenerationError
from engine.labels import probabilities
from engine.options import GenerationOptions
from engine.scoring import Score
from engine.types import Request
from tests import tiny
from tests.helpers.talk import answered, ask, dialogue

LABELS = ("positive", "negative", "neutral")


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    return tiny.engine("llama")


def score(probability: float, *ids: int) -> Score:
    total = math.log(probability) if probability else -math.inf
    return Score(total, 0.0, ids, (total,))


@pytest.mark.parametrize("architecture", ["llama", "bloom", "t5"])
def test_the_answer_is_the_most_likely_label(architecture: str):
    engine = tiny.engine(architecture)
    request = ask("How was it?", labels=LABELS)
    [answer] = engine.generate([request])
    [scores] = engine.score([request], [LABELS])
    found = dict(zip(LABELS, (one.probability for one in scores.candidates), strict=True))
    assert answer.labels == pytest.approx(found, abs=1e-6)
    assert answer.text == max(LABELS, key=lambda label: found[label])
    assert answer.confidence == answer.labels[answer.text]
    assert (answer.finish_reason, answer.error, answer.usage.completion_tokens) == ("stop", None, 0)


def test_requests_with_and_without_labels_go_together(engine: LocalEngine):
    requests = [
        ask("Hello", max_new_tokens=4),
        ask("How was it?", labels=LABELS),
        ask("Is it?", labels=("yes", "no")),
        ask("How was it?", labels=LABELS, label_prior=True),
    ]
    together = engine.generate(requests)
    alone = [engine.generate([request])[0] for request in requests]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert [set(answer.labels) for answer in together] == [set(), {*LABELS}, {"yes", "no"}, {*LABELS}]


def test_a_prior_is_what_the_model_gives_without_the_question(engine: LocalEngine):
    request = ask("Be brief.", "Yes.", "How was it?", labels=LABELS, label_prior=True)
    [answer] = engine.generate([request])
    scores, prior = engine.score([request, ask("Be brief.", "Yes.", "N/A")], [LABELS] * 2)
    ratios = [
        math.exp(one.total - other.total)
        for one, other in zip(scores.candidates, prior.candidates, strict=True)
    ]
    expected = [ratio / sum(ratios) for ratio in ratios]
    assert list(answer.labels.values()) == pytest.approx(expected, abs=1e-4)


def test_a_label_that_begins_another_has_not_that_ones_probability():
    # "1", "10", "100" and "2" by nested tokens.
    scores = [score(0.5, 1), score(0.3, 1, 0), score(0.1, 1, 0, 0), score(0.5, 2)]
    found = probabilities(["1", "10", "100", "2"], scores)
    assert list(found.values()) == pytest.approx([0.2, 0.2, 0.1, 0.5])


def test_impossible_labels_are_never_chosen_and_all_of_them_is_an_error():
    assert probabilities(["a", "b"], [score(0.0, 1), score(1e-300, 2)]) == {"a": 0.0, "b": 1.0}
    with pytest.raises(GenerationError, match="no probability to any label"):
        probabilities(["a", "b"], [score(0.0, 1), score(0.0, 2)])
    with pytest.raises(GenerationError, match="no probability to any label"):
        probabilities(["a", "b"], [Score(math.nan, 0, (1,), ()), Score(math.nan, 0, (2,), ())])


def test_a_plain_text_is_continued_by_a_label_as_a_word(engine: LocalEngine):
    options = GenerationOptions(labels=("yes", "no"))
    found = engine.generate([Request((), options, prompt) for prompt in ("Is it?", "Is it? ")])
    scores = engine.score(["Is it?"], [[" yes", " no"]])[0]
    for answer in found:
        assert list(answer.labels.values()) == pytest.approx(
            [one.probability for one in scores.candidates], abs=1e-6
        )


def test_each_turn_of_a_conversation_is_labelled_with_the_one_before_it(engine: LocalEngine):
    options = GenerationOptions(labels=LABELS)
    [[first, second]] = answered(engine, [dialogue("a", "One", "Two")], options)
    [expected] = engine.generate([ask("One", first.text, "Two", labels=LABELS)])
    assert second == expected


def test_a_prompt_that_cannot_be_read_costs_no_other_its_label(engine: LocalEngine):
    failed, well = engine.generate([ask("x" * 600, labels=LABELS), ask("How was it?", labels=LABELS)])
    assert failed.error is not None
    assert well.text in LABELS


def test_a_plain_prompt_that_cannot_be_read_costs_no_other_its_label(engine: LocalEngine):
    options = GenerationOptions(labels=LABELS)
    good, bad = engine.generate([Request((), options, "How was it?"), Request((), options, (10**6,))])
    assert good.text in LABELS
    assert "token ids outside the vocabulary" in str(bad.error)


def test_a_stream_gives_a_label_in_one_chunk(engine: LocalEngine):
    chunks = list(engine.stream([ask("How was it?", labels=LABELS)]))
    assert [chunk.text for chunk in chunks] == [gathered(chunks, 1)[0].text]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["one"], "at least two"),
        (["a", "a"], "each once"),
        (["a", " "], "is empty"),
        (3, "valid tuple"),
        ("recipe", "list them"),
    ],
)
def test_labels_that_are_none_are_refused(labels, said: str):
    with pytest.raises(ConfigurationError, match=said):
        split({"model_name": "m", "labels": labels})


def test_a_platforms_empty_list_is_no_label_mode():
    assert split({"model_name": "m", "labels": []}).generation.labels == ()
