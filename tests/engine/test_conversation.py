"""Whole conversations: every open turn is asked in order, with all that came before it, or says why not."""

from collections.abc import Sequence

from engine.conversation import Follow, converse
from engine.errors import PromptError
from engine.options import GenerationOptions
from engine.types import Answer, Dialogue, Message, Request, Turn
from tests.fakes import FakeEngine
from tests.helpers.talk import dialogue, said

OPTIONS = GenerationOptions(max_new_tokens=7)


def transcript(request: Request) -> str:
    """Everything that was said, so that an answer shows what it was asked with."""
    return "|".join(message.text for message in request.messages)


def refuse_no(request: Request) -> str:
    if request.messages[-1].text == "no":
        raise PromptError("asked for it")
    return transcript(request)


def texts(answers: list[list[Answer]]) -> list[list[str]]:
    return [[answer.text for answer in given] for given in answers]


def test_a_turn_is_asked_with_the_turns_before_it_and_their_own_answers():
    engine = FakeEngine(lambda request: f"<{request.messages[-1].text}>")
    answers = converse(engine, [dialogue("a", "one", "two", "three")], OPTIONS)
    assert texts(answers) == [["<one>", "<two>", "<three>"]]
    assert [batch[0].messages for batch in engine.batches] == [
        said("one"),
        said("one", "<one>", "two"),
        said("one", "<one>", "two", "<two>", "three"),
    ]


def test_what_was_said_before_comes_first():
    engine = FakeEngine(transcript)
    history = said("before", "yes", system="Be brief.")
    assert texts(converse(engine, [dialogue("a", "now", history=history)], OPTIONS)) == [
        ["Be brief.|before|yes|now"]
    ]


def test_all_messages_of_a_turn_are_asked_together():
    engine = FakeEngine(transcript)
    turn = Turn("k", (Message("system", ("Be brief.",)), *said("now")))
    assert texts(converse(engine, [Dialogue("k", said("before", "yes"), (turn,))], OPTIONS)) == [
        ["before|yes|Be brief.|now"]
    ]


def test_all_first_turns_are_asked_at_once():
    engine = FakeEngine(transcript)
    converse(engine, [dialogue("a", "a1", "a2"), dialogue("b", "b1"), dialogue("c", "c1", "c2")], OPTIONS)
    assert [request.messages[-1].text for request in engine.batches[0]] == ["a1", "b1", "c1"]


class LastFirst(FakeEngine):
    """Brings each conversation to its end before the one asked before it begins."""

    def generate(self, requests: Sequence[Request], follow: Follow | None = None) -> list[Answer]:
        answers = []
        for i, request in reversed(list(enumerate(requests))):
            asked, given = request, []
            while asked is not None:
                self.batches.append([asked])
                given.append(self._answer(asked))
                asked = follow(i, given[-1])
            answers.append(given[0])
        return answers[::-1]


def test_a_dialogues_turns_do_not_wait_for_the_others():
    engine = LastFirst(lambda request: request.messages[-1].text.upper())
    dialogues = [dialogue("a", "a1"), dialogue("b", "b1", "b2", "b3"), dialogue("c", "c1", "c2")]
    answers = converse(engine, dialogues, OPTIONS)
    assert [batch[0].messages[-1].text for batch in engine.batches] == ["c1", "c2", "b1", "b2", "b3", "a1"]
    assert texts(answers) == [["A1"], ["B1", "B2", "B3"], ["C1", "C2"]]
    assert engine.batches[4][0].messages == said("b1", "B1", "b2", "B2", "b3")


def test_answers_come_in_the_order_of_dialogues_and_turns():
    engine = FakeEngine(lambda request: request.messages[-1].text.upper())
    dialogues = [dialogue("a", "a1"), dialogue("b", "b1", "b2", "b3"), dialogue("c", "c1", "c2")]
    assert texts(converse(engine, dialogues, OPTIONS)) == [["A1"], ["B1", "B2", "B3"], ["C1", "C2"]]


def test_every_request_has_the_options_given():
    engine = FakeEngine(transcript)
    converse(engine, [dialogue("a", "one", "two")], OPTIONS)
    assert {request.options for batch in engine.batches for request in batch} == {OPTIONS}


def test_a_turn_that_fails_ends_its_own_dialogue_only():
    engine = FakeEngine(refuse_no)
    broken, whole = converse(
        engine, [dialogue("a", "yes", "no", "x", "y"), dialogue("b", "1", "2", "3")], OPTIONS
    )
    assert [answer.finish_reason for answer in broken] == ["stop", "error", "error", "error"]
    assert [answer.finish_reason for answer in whole] == ["stop"] * 3
    assert not any("x" in transcript(request) for batch in engine.batches for request in batch)


def test_turns_after_a_failure_say_that_they_were_not_asked_and_name_its_key():
    ((failed, *rest),) = converse(FakeEngine(refuse_no), [dialogue("a", "no", "x", "y")], OPTIONS)
    assert str(failed.error) == "asked for it"
    assert [type(answer.error) for answer in rest] == [PromptError, PromptError]
    assert all("not asked" in str(answer.error) and "'a.1'" in str(answer.error) for answer in rest)


def test_a_dialogue_without_turns_has_no_answers_and_costs_none():
    engine = FakeEngine(transcript)
    assert texts(converse(engine, [dialogue("a"), dialogue("b", "one")], OPTIONS)) == [[], ["one"]]


def test_no_dialogues_have_no_answers():
    engine = FakeEngine(transcript)
    assert converse(engine, [], OPTIONS) == []
    assert [request for batch in engine.batches for request in batch] == []
