"""Whole conversations: every open turn is asked in order, with all that came before it, or says why not."""

from collections.abc import Iterable, Iterator

from engine.contract import Follow
from engine.conversation import converse
from engine.errors import PromptError
from engine.options import GenerationOptions
from engine.types import Answer, Chunk, Dialogue, Message, Request, Turn
from tests.fakes import FakeEngine
from tests.helpers.talk import answered, dialogue, said

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
    answers = answered(engine, [dialogue("a", "one", "two", "three")], OPTIONS)
    assert texts(answers) == [["<one>", "<two>", "<three>"]]
    assert [request.messages for request in engine.requests] == [
        said("one"),
        said("one", "<one>", "two"),
        said("one", "<one>", "two", "<two>", "three"),
    ]


def test_what_was_said_before_comes_first():
    engine = FakeEngine(transcript)
    history = said("before", "yes", system="Be brief.")
    assert texts(answered(engine, [dialogue("a", "now", history=history)], OPTIONS)) == [
        ["Be brief.|before|yes|now"]
    ]


def test_all_messages_of_a_turn_are_asked_together():
    engine = FakeEngine(transcript)
    turn = Turn("k", (Message("system", ("Be brief.",)), *said("now")))
    assert texts(answered(engine, [Dialogue("k", said("before", "yes"), (turn,))], OPTIONS)) == [
        ["before|yes|Be brief.|now"]
    ]


class LastFirst(FakeEngine):
    """Takes all requests, then brings each conversation to its end, the last one first."""

    def stream(
        self, requests: Iterable[Request | None], follow: Follow | None = None, deltas: bool = True
    ) -> Iterator[Chunk]:
        taken = [request for request in requests if request is not None]
        for index, asked in reversed(list(enumerate(taken))):
            told = follow and (lambda _, answer, index=index: follow(index, answer))
            for chunk in super().stream([asked], told, deltas):
                yield Chunk(index, chunk.text, chunk.answer)


def test_a_dialogues_turns_do_not_wait_for_the_others():
    engine = LastFirst(lambda request: request.messages[-1].text.upper())
    dialogues = [dialogue("a", "a1"), dialogue("b", "b1", "b2", "b3"), dialogue("c", "c1", "c2")]
    answers = list(converse(engine, dialogues, OPTIONS))
    assert [given[-1].text for _, given in answers] == ["C2", "B3", "A1"]
    assert [one.key for one, _ in answers] == ["c", "b", "a"]
    assert [r.messages[-1].text for r in engine.requests] == ["c1", "c2", "b1", "b2", "b3", "a1"]
    assert engine.requests[4].messages == said("b1", "B1", "b2", "B2", "b3")


def test_a_dialogue_is_given_as_it_ends_and_is_the_one_that_came():
    engine = FakeEngine(transcript)
    dialogues = [dialogue("a", "one", "two"), dialogue("b", "three")]
    given = converse(engine, iter(dialogues), OPTIONS)
    assert next(given)[0] is dialogues[0]
    assert len(engine.requests) == 2
    assert next(given)[0] is dialogues[1]


def test_each_delta_is_told_with_its_dialogue_and_turn():
    told: list[tuple[str, int, str]] = []
    dialogues = [dialogue("a", "x", "yz"), dialogue("b", "w")]
    engine = FakeEngine(lambda request: request.messages[-1].text)
    list(converse(engine, dialogues, OPTIONS, lambda one, turn, text: told.append((one.key, turn, text))))
    assert told == [("a", 0, "x"), ("a", 1, "y"), ("a", 1, "z"), ("b", 0, "w")]


def test_dialogues_may_come_one_by_one():
    coming = [None, dialogue("a", "one"), None, None, dialogue("b", "two")]
    assert [one.key for one, _ in converse(FakeEngine(transcript), coming, OPTIONS)] == ["a", "b"]


def test_answers_come_in_the_order_of_dialogues_and_turns():
    engine = FakeEngine(lambda request: request.messages[-1].text.upper())
    dialogues = [dialogue("a", "a1"), dialogue("b", "b1", "b2", "b3"), dialogue("c", "c1", "c2")]
    assert texts(answered(engine, dialogues, OPTIONS)) == [["A1"], ["B1", "B2", "B3"], ["C1", "C2"]]


def test_every_request_has_the_options_given():
    engine = FakeEngine(transcript)
    list(converse(engine, [dialogue("a", "one", "two")], OPTIONS))
    assert {request.options for request in engine.requests} == {OPTIONS}


def test_a_turn_that_fails_ends_its_own_dialogue_only():
    engine = FakeEngine(refuse_no)
    broken, whole = answered(
        engine, [dialogue("a", "yes", "no", "x", "y"), dialogue("b", "1", "2", "3")], OPTIONS
    )
    assert [answer.finish_reason for answer in broken] == ["stop", "error", "error", "error"]
    assert [answer.finish_reason for answer in whole] == ["stop"] * 3
    assert not any("x" in transcript(request) for request in engine.requests)


def test_turns_after_a_failure_say_that_they_were_skipped_and_name_its_key():
    ((failed, *rest),) = answered(FakeEngine(refuse_no), [dialogue("a", "no", "x", "y")], OPTIONS)
    assert str(failed.error) == "asked for it"
    assert [type(answer.error) for answer in rest] == [PromptError, PromptError]
    assert all(
        "skipped: an earlier turn failed" in str(answer.error) and "'a.1'" in str(answer.error)
        for answer in rest
    )


def test_a_dialogue_without_turns_has_no_answers_and_costs_none():
    engine = FakeEngine(transcript)
    assert texts(answered(engine, [dialogue("a"), dialogue("b", "one"), dialogue("c")], OPTIONS)) == [
        [],
        ["one"],
        [],
    ]


def test_no_dialogues_have_no_answers():
    engine = FakeEngine(transcript)
    assert list(converse(engine, [], OPTIONS)) == []
    assert engine.requests == []
