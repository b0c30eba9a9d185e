"""The base of a model file: batches of items in, lists of answers out; a failure costs nothing else."""

import logging
from pathlib import Path

import pytest

import models
from adapters.hugging import Failure, HuggingAdapter
from engine.errors import ConfigurationError, PromptError
from tests.fakes import FakeEngine


def reply(request) -> str:
    """Says how many messages it was given; refuses a question with "refuse" in it."""
    if "refuse" in request.messages[-1].text:
        raise PromptError("it refuses")
    return f"{len(request.messages)}: {request.messages[-1].text}"


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(reply)


@pytest.fixture
def adapter(engine: FakeEngine) -> HuggingAdapter:
    adapter = HuggingAdapter({"model_name": "nobody/nothing"})
    adapter._engine = engine
    return adapter


def ask(*questions: str) -> dict:
    return {str(i): {"mimetype": "application/text", "value": text} for i, text in enumerate(questions)}


def texts(answers: list[list[dict]]) -> list[list[str]]:
    return [[answer["coordinates"] for answer in item] for item in answers]


def test_each_question_is_asked_with_what_was_said_before_it(adapter, engine):
    answers = adapter.predict([{"prompts": {"a": ask("one", "two", "three"), "b": ask("four")}}])
    assert texts(answers) == [["1: one", "3: two", "5: three", "1: four"]]
    assert [m.text for m in engine.requests[1].messages] == ["one", "1: one", "two"]


def test_all_conversations_of_a_batch_are_asked(adapter, engine):
    adapter.predict(
        [{"prompts": {"a": ask("one", "two"), "b": ask("three")}}, {"prompts": {"c": ask("four")}}]
    )
    assert [r.messages[-1].text for r in engine.requests] == ["one", "two", "three", "four"]


def test_refusals_are_marked_where_their_texts_are_listed(adapter):
    batch = [{"prompts": {"a": ask("I do NOT know that."), "b": ask("Tokyo")}}]
    found = adapter.predict(batch, refusals=["i do not know", "cannot"])[0]
    assert [answer["metadata"]["user"]["refusal"] for answer in found] == [True, False]
    assert all("refusal" not in answer["metadata"]["user"] for answer in adapter.predict(batch)[0])


def test_what_fails_is_named_by_item_and_prompt_and_costs_nothing_else(adapter):
    failures: list[Failure] = []
    batch = [
        {"filename": "/a.json", "prompts": {"good": ask("one"), "bad": ask("two", "refuse", "three")}},
        {"id": "17", "prompts": {}},
        {"prompts": 3},
        {"filename": "/b.json", "prompts": {"good": ask("four"), "odd": "text"}},
    ]
    answers = adapter.predict(batch, failures=failures)
    assert texts(answers) == [["1: one", "1: two"], [], [], ["1: four"]]
    assert "17: 'prompts' is empty: add a prompt" in map(str, failures)
    named = {(failure.position, failure.item) for failure in failures}
    assert named == {(0, "/a.json"), (1, "17"), (2, "item 3"), (3, "/b.json")}
    reasons = [failure.reason for failure in failures if failure.position == 0]
    assert reasons[0] == "it refuses"
    assert "skipped: an earlier turn failed" in reasons[1]
    assert "/a.json: prompt 'bad': it refuses" in map(str, failures)


def test_failures_are_logged_where_nobody_takes_them(adapter, caplog):
    with caplog.at_level(logging.WARNING):
        adapter.predict([{"filename": "/a.json", "prompts": {"bad": ask("refuse")}}])
    assert "no answer: /a.json: prompt 'bad': it refuses" in caplog.text


def test_a_turn_too_long_names_item_key_and_both_lengths(tiny_model: Path):
    adapter = models.load("auto_causal_lm", {"model_name": str(tiny_model)})
    failures: list[Failure] = []
    batch = [{"filename": "/long.json", "prompts": {"essay": ask("x" * 600), "short": ask("y")}}]
    (answers,) = adapter.predict(batch, failures=failures, max_new_tokens=4)
    assert [answer["metadata"]["system"]["promptId"] for answer in answers] == ["short"]
    (failure,) = failures
    tokens = (
        len("x" * 600) + len("[user]") + len("[assistant]") + 2
    )  # The template's, a byte each, <s> and </s>.
    for word in ["/long.json", "'essay'", f"{tokens} tokens", "512 tokens"]:
        assert word in str(failure)


def test_options_of_a_call_replace_the_configuration(adapter, engine):
    adapter.predict([{"prompts": {"a": ask("one")}}], max_tokens=7)
    assert engine.requests[0].options.max_new_tokens == 7
    assert adapter.configuration.generation.max_new_tokens == 256
    with pytest.raises(ConfigurationError, match="did you mean 'temperature'"):
        adapter.predict([], temprature=1)


def test_the_configuration_wins_over_the_model_file_under_either_name():
    class Named(HuggingAdapter):
        model_name = "nobody/nothing"
        defaults = {"max_new_tokens": 5, "temperature": 0.5}  # noqa: RUF012

    assert Named().configuration.generation.max_new_tokens == 5
    assert Named({"max_tokens": 6}).configuration.generation.max_new_tokens == 6
    assert Named({"model_name": "other/one"}).configuration.load.model_name == "other/one"


def test_answers_are_signed_with_the_name_given(adapter):
    (answers,) = adapter.predict([{"prompts": {"a": ask("one")}}], model_name="mine")
    assert answers[0]["metadata"]["user"]["model"] == {"name": "mine", "confidence": None}


def test_predict_before_load_says_what_to_do():
    with pytest.raises(ConfigurationError, match=r"call load\(\) before predict\(\)"):
        HuggingAdapter({"model_name": "nobody/nothing"}).predict([{"prompts": {"a": ask("one")}}])


def test_no_model_name_says_what_to_do():
    with pytest.raises(ConfigurationError, match=r"'model_name'.*set it"):
        models.find("auto_causal_lm")({})


def test_an_empty_batch_has_no_answers(adapter):
    assert adapter.predict([]) == []
