"""Traces: a conversation in one list of messages."""

import json
import logging

import dtlpy
import pytest

from adapters import prompt_items
from engine.errors import PromptError
from engine.types import Dialogue, Image, Message, Turn


def trace(*messages: tuple | dict) -> dict:
    """A trace of (role, content) pairs, as the SDK writes one."""
    made = dtlpy.LLMTrace(name="session.json")
    for message in messages:
        made.add_message(
            message if isinstance(message, dict) else {"role": message[0], "content": message[1]}
        )
    return json.loads(json.dumps(made.to_json()))


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
