"""A second model judges the answers by a rubric: the probability of its yes."""

import re
from pathlib import Path

import pytest

from engine.backends.local import LocalEngine
from engine.confidence import judge
from engine.confidence.second_model import second_model
from engine.configuration import split
from engine.contract import gathered
from engine.errors import ConfigurationError
from engine.options import GenerationOptions
from engine.types import Message, Request
from tests import tiny
from tests.helpers import classifiers
from tests.helpers.talk import ask, said


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    return tiny.engine("llama")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.save(tmp_path_factory.mktemp("judge"), "gpt2", seed=5))


def expected(folder: str, text: str) -> float:
    """The probability of a yes by the judge alone."""
    request = Request((Message("user", (text,)),), GenerationOptions())
    [scores] = second_model(folder, "generate").score([request], [("Yes", "No")])
    return scores.candidates[0].probability


def test_the_score_is_the_probability_of_a_yes_to_the_rubric(engine: LocalEngine, folder: str):
    options = {"judge": folder, "judge_rubric": "Is it polite?", "max_new_tokens": 4}
    request = ask("Hi", "Yes?", "What is it?", system_prompt="Be brief.", **options)
    [answer] = engine.generate([request])
    [plain] = engine.generate([ask("Hi", "Yes?", "What is it?", system_prompt="Be brief.", max_new_tokens=4)])
    asked = (
        "A conversation:\n\nSystem: Be brief.\n\nUser: Hi\n\nAssistant: Yes?\n\nUser: What is it?\n\n"
        f"The answer:\n\n{answer.text}\n\nIs it polite? Reply with Yes or No."
    )
    assert answer.confidences == {"judge": pytest.approx(expected(folder, asked), abs=1e-5)}
    assert (answer.text, answer.confidence) == (plain.text, plain.confidence)


def test_it_is_a_confidence_method_and_goes_with_others_and_with_labels(engine: LocalEngine, folder: str):
    requests = [
        ask("One", judge=folder, confidence="judge", max_new_tokens=4),
        ask("Two", max_new_tokens=4),
        ask("Three", judge=folder, labels=("yes", "no")),
        ask("Four", judge=folder, confidence_methods=("sequence",), max_new_tokens=4),
        Request((), GenerationOptions(judge=folder, max_new_tokens=4), "Once upon"),
    ]
    first, plain, labelled, both, text = engine.generate(requests)
    assert first.confidence == first.confidences["judge"] == first.evidence.judge
    assert plain.confidences == {}
    assert labelled.confidence == labelled.labels[labelled.text] != labelled.confidences["judge"]
    assert set(both.confidences) == {"sequence", "judge"}
    assert 0 < text.confidences["judge"] < 1


def test_the_answers_of_a_step_are_scored_in_one_call_and_streams_end_with_the_score(
    engine: LocalEngine, folder: str, monkeypatch: pytest.MonkeyPatch
):
    calls = []
    scorer = second_model(folder, "generate")
    score = scorer.score
    monkeypatch.setattr(scorer, "score", lambda *given: calls.append(len(given[0])) or score(*given))
    requests = [ask(text, judge=folder, labels=("yes", "no")) for text in "abc"]
    chunks = list(engine.stream([*requests, ask("d", judge=folder, max_new_tokens=4)]))
    assert calls == [3, 1]
    for i, answer in enumerate(gathered(chunks, 4)):
        assert "".join(chunk.text for chunk in chunks if chunk.index == i) == answer.text
        assert answer.confidences["judge"] is not None


def test_an_answer_that_cannot_be_judged_has_no_score_and_is_an_answer(
    engine: LocalEngine, folder: str, caplog: pytest.LogCaptureFixture
):
    requests = [ask("x" * 450, judge=folder, max_new_tokens=2, confidence="judge") for _ in range(2)]
    requests.append(ask("x", judge=folder, max_new_tokens=2))
    long, _, well = engine.generate(requests)
    assert (long.error, long.confidence, long.confidences) == (None, None, {"judge": None})
    assert well.confidences["judge"] is not None
    assert caplog.text.count("an answer cannot be judged") == 1


def test_a_judge_that_is_missing_is_tried_once_and_costs_no_other_answer(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
):
    tried = []
    from engine.backends import judge_worker

    load = judge_worker.second_model
    monkeypatch.setattr(judge_worker, "second_model", lambda *given: tried.append(given) or load(*given))
    bad = [ask(text, judge="no folder", max_new_tokens=2) for text in "ab"]
    *failed, well = engine.generate([*bad, ask("c", max_new_tokens=2)])
    assert ["no folder is missing" in str(answer.error) for answer in failed] == [True, True]
    assert well.error is None
    assert len(tried) == 1
    assert all(str(answer.error).startswith("option 'judge': ") for answer in failed)


def test_a_judge_that_writes_no_text_is_refused(engine: LocalEngine, tmp_path: Path):
    reranker = classifiers.save(tmp_path, "bert", 1)
    [answer] = engine.generate([ask("a", judge=str(reranker), max_new_tokens=2)])
    assert re.search("option 'judge': .* scores or labels texts: take a model that writes", str(answer.error))


def test_a_question_of_several_turns_is_one_message_to_the_judge():
    request = Request(said("a", "b", "c"), GenerationOptions())
    [message] = judge.question(None, request, "d").messages
    assert message.text.count("User: ") == 2
    assert judge.RUBRIC in message.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"confidence": "judge"}, "needs the option judge"),
        ({"confidence_methods": ["judge"]}, "needs the option judge"),
        ({"judge_rubric": "Is it?"}, "judge_rubric needs judge"),
    ],
)
def test_a_rubric_or_a_method_without_a_judge_is_refused(options: dict, message: str):
    with pytest.raises(ConfigurationError, match=message):
        split({"model_name": "m", **options})
