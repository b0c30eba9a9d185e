"""Several answers to one request, the surest first."""

import pytest

from engine.backends.local import LocalEngine
from engine.backends.ranking_worker import ranked
from engine.configuration import split
from engine.conversation import converse
from engine.errors import ConfigurationError, GenerationError
from engine.options import GenerationOptions
from engine.types import Answer, Usage
from tests import tiny
from tests.helpers.talk import ask, dialogue

SAMPLED = {"temperature": 1.0, "seed": 3, "max_new_tokens": 6}


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    return tiny.engine(eos_token_id=tiny.ENDS)


def made(text: str, confidence: float | None, finish: str = "stop") -> Answer:
    return Answer(text, (), None, confidence, finish, Usage(1, 1))


def test_a_request_has_as_many_answers_as_it_asks_for_the_surest_first(engine: LocalEngine):
    [found] = engine.generate([ask("Go on", n=4, **SAMPLED)])
    answers = [found, *found.others]
    assert [one.confidence for one in answers] == sorted((one.confidence for one in answers), reverse=True)
    alone = engine.generate([ask("Go on", **SAMPLED | {"seed": 3 + i}) for i in range(4)])
    assert {one.token_ids for one in answers} == {one.token_ids for one in alone}
    assert len({one.text for one in answers}) > 1


def test_its_answers_come_beside_those_of_other_requests(engine: LocalEngine):
    requests = [ask("a" * i, n=n, **SAMPLED) for i, n in enumerate((1, 3, 1, 2), 1)]
    assert [len(found.others) for found in engine.generate(requests)] == [0, 2, 0, 1]
    chunks = list(engine.stream(requests[1:2]))
    assert [chunk.index for chunk in chunks] == [0]
    assert chunks[0].text == chunks[0].answer.text


def test_a_cancelled_one_leaves_with_all_its_answers(engine: LocalEngine):
    request = ask("Go on", n=3, **SAMPLED | {"max_new_tokens": 400})
    object.__setattr__(request, "cancelled", lambda: True)
    [found, other] = engine.generate([request, ask("Go on", max_new_tokens=2)])
    assert "cancelled" in str(found.error)
    assert other.error is None


def test_a_conversation_goes_on_after_the_surest(engine: LocalEngine):
    options = GenerationOptions(n=3, **SAMPLED)
    [(_, answers)] = converse(engine, [dialogue("a", "One", "Two")], options)
    assert [len(found.others) for found in answers] == [2, 2]


def test_failed_answers_are_left_out_and_unknown_confidences_come_last():
    failed = Answer.failed(GenerationError("no"))
    found = ranked([failed, made("a", None), made("b", 0.5)])
    assert [one.text for one in (found, *found.others)] == ["b", "a"]
    assert ranked([failed, failed]) == failed


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "n is 4, but greedy answers are all the same: set temperature"),
        ({"temperature": 0}, "greedy"),
        ({"temperature": 1, "labels": ["a", "b"]}, "a label is chosen, not sampled"),
    ],
)
def test_answers_that_would_be_the_same_are_refused_at_the_configuration(options: dict, reason: str):
    with pytest.raises(ConfigurationError, match=reason):
        split({"model_name": "m", "n": 4, **options})
