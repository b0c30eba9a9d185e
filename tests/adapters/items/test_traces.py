"""Traces: a conversation in one list of messages."""

import json
import logging

import dtlpy
import pytest

from adapters.items import prompt_items, traces
from adapters.items.item import Item
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
    dialogues, errors = prompt_items.read(item, "the item", {})
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
    nobody = {"role": "narrator", "content": "a marker"}
    audio = {"role": "user", "content": [{"type": "input_audio", "input_audio": {}}, "Well?"]}
    item = {**trace(("user", "Hi"), nobody, audio), "filename": "/t.json"}
    with caplog.at_level(logging.INFO):
        (dialogue,) = Item.of(item, "mine").dialogues
    assert [message.text for turn in dialogue.turns for message in turn.messages] == ["Hi", "Well?"]
    assert "/t.json: message 1" in caplog.text
    assert "/t.json: message 2" in caplog.text
    assert "marker" not in caplog.text


# Tools


def exchange(form: str) -> list[dict]:
    """An assistant's call of a tool and what the tool has returned, as systems in use write it."""
    function = {"name": "weather", "arguments": '{"city": "Oslo"}'}
    arguments = {"city": "Oslo"}
    result = {"role": "tool", "tool_call_id": "1", "content": "-7 degrees"}
    calls = {
        "OpenAI": {"content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]},
        "OpenAI, with words": {"content": "", "tool_calls": [{"id": "1", "function": function}]},
        "OpenAI, before 2024": {"content": None, "function_call": function},
        "LangChain": {"content": "", "tool_calls": [{"id": "1", "name": "weather", "args": arguments}]},
        "Anthropic": {
            "content": [{"type": "tool_use", "id": "1", "name": "weather", "input": arguments}],
        },
    }
    results = {
        "OpenAI, before 2024": {"role": "function", "name": "weather", "content": "-7 degrees"},
        "Anthropic": {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "1", "content": [{"text": "-7 degrees"}]}],
        },
    }
    return [{"role": "assistant", **calls[form]}, results.get(form, result)]


CALLED = assistant('[calls weather with {"city": "Oslo"}]')
RETURNED = user("[weather returned]\n-7 degrees")
FORMS = ["OpenAI", "OpenAI, with words", "OpenAI, before 2024", "LangChain", "Anthropic"]


@pytest.mark.parametrize("form", FORMS)
def test_what_a_tool_has_returned_stands_before_the_next_question(form: str):
    item = trace(("user", "How is Oslo?"), *exchange(form), ("user", "So, a coat?"))
    history = (user("How is Oslo?"), CALLED, RETURNED)
    assert read(item) == [Dialogue("3", history, (Turn("3", (user("So, a coat?"),)),))]


@pytest.mark.parametrize("form", FORMS)
def test_a_question_for_which_a_tool_was_asked_is_answered_with_what_that_returned(form: str):
    item = trace(("user", "How is Oslo?"), *exchange(form))
    asked = [Dialogue("0", (), (Turn("0", (user("How is Oslo?"), CALLED, RETURNED)),))]
    assert read(item) == asked
    assert read({**item, "messages": [*item["messages"], {"role": "assistant", "content": "Cold."}]}) == asked


def test_words_with_a_call_and_results_of_several_calls_are_told_in_order():
    calls = [{"id": str(i), "function": {"name": name}} for i, name in enumerate(["one", "two"])]
    results = [
        {"role": "tool", "tool_call_id": str(i), "content": content}
        for i, content in ((1, {"is": None}), (0, ""), (7, 3))
    ]
    call = {"role": "assistant", "content": "Let me look.", "tool_calls": calls}
    item = trace(("user", "Hi"), call, *results, ("user", "Well?"))
    [dialogue] = read(item)
    assert [message.text for message in dialogue.history[1:]] == [
        "Let me look.\n[calls one with {}]\n[calls two with {}]",
        '[two returned]\n{"is": null}',
        "[one returned]\n",
        "[a tool returned]\n3",
    ]


@pytest.mark.parametrize("odd", [3, "x", {}, {"function": 3}, {"id": [], "name": {}}, None])
def test_a_call_of_any_shape_is_a_call(odd):
    call = {"role": "assistant", "content": None, "tool_calls": [odd], "function_call": odd}
    [dialogue] = read(trace(("user", "Hi"), call, ("user", "Well?")))
    assert dialogue.key == "2"


def test_an_assistants_message_without_words_answers_its_question_too():
    sound = {"role": "assistant", "content": [{"type": "audio", "audio": {}}]}
    refusal = {"role": "assistant", "content": None, "refusal": "No."}
    [dialogue] = read(trace(("user", "Hi"), sound, ("user", "Again"), refusal, ("user", "Well?")))
    assert dialogue.key == "4"
    assert dialogue.history[-1] == assistant("No.")


def test_what_is_embedded_of_a_trace_is_its_last_question():
    item = trace(("system", "Be brief."), ("user", "How is Oslo?"), *exchange("OpenAI"))
    assert traces.question(item, "t.json") == "How is Oslo?"
    assert traces.question(trace(("assistant", "Hi")), "t.json") == ""


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
