"""The conversations of a page, without the page."""

from adapters.page.session import Exchange, Session
from engine.errors import ConfigurationError, PromptError
from engine.options import GenerationOptions
from engine.types import Message, Request
from tests.adapters.page.fakes import LettersEngine


def echo(request: Request) -> str:
    return request.messages[-1].text.upper()


def said(request: Request) -> list[str]:
    return [message.text for message in request.messages]


def answered(session: Session, engine: LettersEngine, model: int = 0) -> list[str]:
    """The texts of the answer each time it has grown."""
    stages = session.answer(model, engine, GenerationOptions())
    return [conversation[-1].text for conversation in stages]


def test_an_answer_grows_and_the_next_question_has_the_history():
    session, engine = Session([[]]), LettersEngine(echo)
    session.ask("ab")
    assert answered(session, engine) == ["A", "AB", "AB"]
    session.ask("c")
    answered(session, engine)
    assert said(engine.requests[1]) == ["ab", "AB", "c"]


def test_a_retry_asks_the_same_again_and_drops_what_came_after():
    session, engine = Session([[]]), LettersEngine(echo)
    for text in ("one", "two", "three"):
        session.ask(text)
        answered(session, engine)
    session.retry(2)  # The messages are: one, ONE, two, …
    answered(session, engine)
    assert said(engine.requests[-1]) == ["one", "ONE", "two"]
    assert [exchange.question for exchange in session.conversations[0]] == ["one", "two"]


def test_an_edit_asks_another_question_in_its_place():
    session, engine = Session([[]]), LettersEngine(echo)
    for text in ("one", "two"):
        session.ask(text)
        answered(session, engine)
    session.edit(0, "uno")
    answered(session, engine)
    assert [(exchange.question, exchange.text) for exchange in session.conversations[0]] == [("uno", "UNO")]


def test_an_undo_gives_the_question_back():
    session, engine = Session([[]]), LettersEngine(echo)
    for text in ("one", "two"):
        session.ask(text)
        answered(session, engine)
    assert session.undo(2) == "two"
    assert [exchange.question for exchange in session.conversations[0]] == ["one"]


def test_a_stop_keeps_the_text_and_ends_the_stream():
    session, engine = Session([[]]), LettersEngine(echo)
    session.ask("abc")
    stages = session.answer(0, engine, GenerationOptions())
    next(stages)
    session.stop()
    assert not engine.ended.is_set()
    assert list(stages) == []
    assert engine.ended.is_set()
    [exchange] = session.conversations[0]
    assert (exchange.text, exchange.stopped, exchange.open) == ("A", True, False)


def test_a_new_question_ends_the_answer_before_it():
    session, engine = Session([[]]), LettersEngine(echo)
    session.ask("abc")
    stages = session.answer(0, engine, GenerationOptions())
    next(stages)
    session.ask("d")
    assert answered(session, engine)[-1] == "D"
    assert list(stages) == []
    assert said(engine.requests[-1]) == ["abc", "A", "d"]


def test_models_answer_one_question_each_with_its_own_history():
    session = Session([[], []])
    loud, quiet = LettersEngine(echo), LettersEngine(lambda request: "hush")
    for text in ("one", "two"):
        session.ask(text)
        answered(session, loud, 0)
        answered(session, quiet, 1)
    assert said(loud.requests[1]) == ["one", "ONE", "two"]
    assert said(quiet.requests[1]) == ["one", "hush", "two"]


def test_a_failed_answer_is_no_part_of_the_history():
    def reply(request: Request) -> str:
        if request.messages[-1].text == "bad":
            raise PromptError("too long")
        return "fine"

    session, engine = Session([[]]), LettersEngine(reply)
    for text in ("bad", "good"):
        session.ask(text)
        answered(session, engine)
    assert said(engine.requests[1]) == ["good"]


def test_an_invalid_option_ends_what_is_open():
    session = Session([[]])
    session.ask("one")
    session.fail(0, ConfigurationError("option 'top_p'"))
    assert "top_p" in str(session.conversations[0][0].answer.error)


def opened(*questions: str) -> dict:
    """A file with one conversation of one question for each key."""
    return {text: [[Exchange((Message("user", (text,)),))]] for text in questions}


def test_a_file_is_walked_through_and_what_was_answered_is_kept():
    session, engine = Session([[]]), LettersEngine(echo)
    session.open(opened("one", "two"))
    assert answered(session, engine)[-1] == "ONE"
    assert session.step(1) == "two"
    assert answered(session, engine)[-1] == "TWO"
    assert session.step(1) == "one"
    assert session.conversations[0][0].text == "ONE"
    assert answered(session, engine) == []


def test_an_answer_of_a_conversation_that_was_left_ends():
    session, engine = Session([[]]), LettersEngine(echo)
    session.open(opened("one", "two"))
    stages = session.answer(0, engine, GenerationOptions())
    next(stages)
    session.step(1)
    session.step(-1)
    assert list(stages) == []
    assert answered(session, engine)[-1] == "ONE"


def test_a_new_conversation_leaves_the_file_open():
    session = Session([[]])
    session.open(opened("one", "two"))
    session.clear()
    assert session.conversations == [[]]
    assert session.step(1) == "one"
