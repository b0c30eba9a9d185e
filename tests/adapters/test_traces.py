"""Traces: a conversation in one list of messages, which takes the answers."""

import copy
import json
import logging

import dtlpy
import pytest

from adapters import prompt_items, traces
from adapters.annotations import as_dict
from engine.errors import PromptError
from engine.types import Answer, Dialogue, Image, Message, Turn, Usage

MODEL = {"name": "mine", "model_id": "17"}


def trace(*messages: tuple | dict) -> dict:
    """A trace of (role, content) pairs, as the SDK writes one."""
    made = dtlpy.LLMTrace(name="session.json")
    for message in messages:
        made.add_message(
            message if isinstance(message, dict) else {"role": message[0], "content": message[1]}
        )
    return json.loads(json.dumps(made.to_json()))


def answer(place: int, text: str = "An answer", confidence: float | None = 0.5) -> dict:
    return as_dict(str(place), Answer(text, (), None, confidence, "stop", Usage(0, 0)), "mine")


def read(item: dict) -> list[Dialogue]:
    dialogues, errors = prompt_items.read(item, "mine")
    assert errors == {}
    return dialogues


def user(text: str) -> Message:
    return Message("user", (text,))


def assistant(text: str) -> Message:
    return Message("assistant", (text,))


def test_the_last_question_is_asked_with_all_before_it():
    item = trace(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"))
    history = (Message("system", ("Be brief.",)), user("Hi"), assistant("Hello"))
    assert read(item) == [Dialogue("3", history, (Turn("3", (user("Bye"),)),))]


def test_questions_that_were_left_open_are_asked_too():
    item = trace(("user", "One"), ("user", "Two"))
    assert read(item) == [Dialogue("0", (), (Turn("0", (user("One"),)), Turn("1", (user("Two"),))))]


def test_an_answered_trace_is_asked_its_last_question_again():
    item = trace(("user", "Hi"), ("assistant", "Hello"))
    assert read(item) == [Dialogue("0", (), (Turn("0", (user("Hi"),)),))]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("Hi", ("Hi",)),
        ([{"type": "text", "text": "Hi"}, "there"], ("Hi", "there")),
        (
            [{"type": "image_url", "image_url": {"url": "https://images.test/cat.png"}}, {"text": "What?"}],
            (Image("https://images.test/cat.png"), "What?"),
        ),
        ({"text": "Hi"}, ("Hi",)),
    ],
)
def test_a_message_may_have_parts(content, parts: tuple):
    assert read(trace(("user", content))) == [Dialogue("0", (), (Turn("0", (Message("user", parts),)),))]


def test_what_a_text_model_cannot_read_is_left_out_with_a_warning_that_names_the_place(caplog):
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    result = {"role": "tool", "tool_call_id": "1", "content": "the tool's marker"}
    audio = {"role": "user", "content": [{"type": "input_audio", "input_audio": {}}, "Well?"]}
    item = {**trace(("user", "Hi"), call, result, audio), "filename": "/t.json"}
    with caplog.at_level(logging.INFO):
        (dialogue,) = read(item)
    assert [message.text for turn in dialogue.turns for message in turn.messages] == ["Hi", "Well?"]
    assert "/t.json: message 2" in caplog.text
    assert "/t.json: message 3" in caplog.text
    assert "marker" not in caplog.text


@pytest.mark.parametrize(
    "messages", [[], [{"role": "assistant", "content": "Hi"}], [3], [{"role": "user", "content": " "}]]
)
def test_a_trace_without_a_question_says_so(messages: list):
    with pytest.raises(PromptError, match="nothing to ask"):
        read({"metadata": {"dltype": "llm_trace"}, "messages": messages})


@pytest.mark.parametrize("item", [{}, {"messages": None}, {"messages": {"0": "Hi"}}])
def test_a_trace_without_messages_says_what_is_needed(item: dict):
    with pytest.raises(PromptError, match="'messages' must be a list"):
        read({**item, "metadata": {"dltype": "llm_trace"}})


def test_answers_stand_behind_their_questions_and_the_rest_stays():
    item = {**trace(("user", "One"), ("user", "Two"), ("user", "Three")), "session": {"of": "somebody"}}
    before = copy.deepcopy(item)
    new = traces.answered(item, [answer(0), answer(2, "Another", None)], MODEL)
    assert item == before
    assert new == {
        **before,
        "messages": [
            before["messages"][0],
            {"role": "assistant", "content": "An answer", "model_info": {**MODEL, "confidence": 0.5}},
            *before["messages"][1:],
            {"role": "assistant", "content": "Another", "model_info": MODEL},
        ],
    }
    dtlpy.LLMTrace.from_json(new)


def test_a_second_answer_replaces_this_models_and_nobody_elses():
    other = {"role": "assistant", "content": "Theirs", "model_info": {"name": "other"}}
    human = {"role": "assistant", "content": "A person's"}
    item = trace(("user", "One"), other, human)
    once = traces.answered(item, [answer(0, "First")], MODEL)
    twice = traces.answered(once, [answer(0, "Second")], MODEL)
    assert [message["content"] for message in once["messages"]] == ["One", "Theirs", "A person's", "First"]
    assert [message["content"] for message in twice["messages"]] == ["One", "Theirs", "A person's", "Second"]


@pytest.mark.parametrize("messages", [[], [("assistant", "Hi")]])
def test_a_question_that_is_gone_is_an_error(messages: list):
    with pytest.raises(PromptError, match="no question 0 any more"):
        traces.answered(trace(*messages), [answer(0)], MODEL)
