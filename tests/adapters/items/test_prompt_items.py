"""What a prompt item's JSON is read as, row by row."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.items import prompt_items
from adapters.items.item import Item, item_name
from engine.errors import PromptError
from engine.types import Dialogue, Image, Message, Turn

MODEL = "tiny-talk"


def text(value, mimetype="application/text"):
    return {"mimetype": mimetype, "value": value}


def image(value="https://images.test/cat.png", mimetype="image/*"):
    return {"mimetype": mimetype, "value": value}


def role(value):
    return {"mimetype": "metadata", "value": {"role": value}}


def answer(key, value, name=MODEL, created="2026-01-01T00:00:00.000Z", **changes):
    """An annotation as the platform keeps a model's free-text answer."""
    model = {"name": name, "confidence": 0.5}
    annotation = {
        "type": "text",
        "label": "q",
        "coordinates": value,
        "createdAt": created,
        "metadata": {"system": {"promptId": key, "model": {"name": name}}, "user": {"model": model}},
    }
    return annotation | changes


def user(*parts):
    return Message("user", parts)


def assistant(value):
    return Message("assistant", (value,))


def questions(key, *messages):
    return Dialogue(key, (), tuple(Turn(key, (message,)) for message in messages))


def conversation(*turns, history=()):
    """Each turn is its key and its messages."""
    return Dialogue(turns[0][0], history, tuple(Turn(key, tuple(messages)) for key, *messages in turns))


def read(prompts, annotations=()):
    return prompt_items.read(
        {"prompts": prompts}, "the item", prompt_items.earlier_answers(annotations, MODEL)
    )


# name: prompts, the dialogues they are, and a word of each warning they give.
TABLE = {
    "each dict of questions is a conversation of its own": (
        {"a": {"1": text("Hi"), "2": text("Bye")}, "b": {"1": text("Who?")}},
        [questions("a", user("Hi"), user("Bye")), questions("b", user("Who?"))],
        [],
    ),
    "all lists together are one conversation": (
        {"a": [text("Hi")], "b": [text("Bye")]},
        [conversation(("a", user("Hi")), ("b", user("Bye")))],
        [],
    ),
    "a list's elements are the parts of one message": (
        {"a": [image("item-id"), text("What is this?"), text("Be short.")]},
        [conversation(("a", user(Image("item-id"), "What is this?", "Be short.")))],
        [],
    ),
    "a dict for one key and a list for another": (
        {"a": [text("Hi")], "b": {"1": text("Who?")}, "c": [text("Bye")]},
        [conversation(("a", user("Hi")), ("c", user("Bye"))), questions("b", user("Who?"))],
        [],
    ),
    "dialogues come in file order": (
        {"b": {"1": text("Who?")}, "a": [text("Hi")]},
        [questions("b", user("Who?")), conversation(("a", user("Hi")))],
        [],
    ),
    "questions come in file order, whatever their names": (
        {"a": {"2": text("first"), "1": text("second")}},
        [questions("a", user("first"), user("second"))],
        [],
    ),
    "missing mimetype": (
        {"a": [{"value": "Hi"}], "b": {"1": {"value": "Who?"}}},
        [conversation(("a", user("Hi"))), questions("b", user("Who?"))],
        [],
    ),
    "a bare string is text": (
        {"a": ["Hi"], "b": {"1": "Who?"}},
        [conversation(("a", user("Hi"))), questions("b", user("Who?"))],
        [],
    ),
    "text by its major type": (
        {"a": [text(m, m) for m in ("text", "text/plain", "text/markdown", "TEXT/Plain; charset=utf-8")]},
        [conversation(("a", user("text", "text/plain", "text/markdown", "TEXT/Plain; charset=utf-8")))],
        [],
    ),
    "images by their major type": (
        {"a": [image(m, m) for m in ("image", "image/*", "image/png", "image/jpeg")]},
        [conversation(("a", user(*map(Image, ("image", "image/*", "image/png", "image/jpeg")))))],
        [],
    ),
    "metadata with a role": (
        {"a": [role("system"), text("Be kind.")], "b": [text("Hi"), role("user")]},
        [conversation(("b", user("Hi")), history=(Message("system", ("Be kind.",)),))],
        [],
    ),
    "metadata with an unknown role": (
        {"a": [role("wizard"), text("Hi")]},
        [conversation(("a", user("Hi")))],
        ["role"],
    ),
    "metadata with something else": (
        {"a": [{"mimetype": "metadata", "value": {"nearestItems": ["id"]}}, text("Hi")]},
        [conversation(("a", user("Hi")))],
        [],
    ),
    "metadata with a str": (
        {"a": [{"mimetype": "metadata", "value": "user"}, text("Hi")]},
        [conversation(("a", user("Hi")))],
        ["metadata"],
    ),
    "metadata among questions": (
        {"a": {"1": role("system"), "2": text("Hi")}},
        [questions("a", user("Hi"))],
        ["metadata"],
    ),
    "a key with an empty list": (
        {"a": [], "b": [text("Hi")]},
        [conversation(("b", user("Hi")))],
        ["'a'"],
    ),
    "a key with only metadata": (
        {"a": [role("user")], "b": [text("Hi")]},
        [conversation(("b", user("Hi")))],
        ["'a'"],
    ),
    "a key without questions": (
        {"a": {}, "b": [text("Hi")]},
        [conversation(("b", user("Hi")))],
        ["'a'"],
    ),
    "value missing, null, no text or blank": (
        {"a": [{"mimetype": "text"}, text(None), text(3), text({"x": 1}), text(" \n"), text("Hi")]},
        [conversation(("a", user("Hi")))],
        ["null", "null", "number", "object", "empty"],
    ),
    "a question's value missing": (
        {"a": {"1": {"mimetype": "text"}, "2": text("Hi")}},
        [questions("a", user("Hi"))],
        ["null"],
    ),
    "an element or question that is neither an object nor text": (
        {"a": [7, text("Hi")], "b": {"1": ["Hi"], "2": text("Who?")}},
        [conversation(("a", user("Hi"))), questions("b", user("Who?"))],
        ["number", "list"],
    ),
    "audio, video and unknown types": (
        {
            "a": [
                text("sound", "audio/*"),
                text("film", "video/mp4"),
                text("{}", "application/json"),
                text("Hi"),
            ]
        },
        [conversation(("a", user("Hi")))],
        ["audio", "video", "json"],
    ),
    "a mimetype that is no text": (
        {"a": [text("Hello", 5), text("Hi")]},
        [conversation(("a", user("Hi")))],
        ["number"],
    ),
    "an image question joins the next text question": (
        {"a": {"1": image("x"), "2": image("y"), "3": text("What are these?"), "4": text("Sure?")}},
        [questions("a", user(Image("x"), Image("y"), "What are these?"), user("Sure?"))],
        [],
    ),
    "a trailing image question": (
        {"a": {"1": text("Hi"), "2": image("x")}},
        [questions("a", user("Hi"))],
        ["image"],
    ),
    "unicode keys and text": (
        {"clé-é 🔑": [text("Où est Besançon ? 🧭")], "ключ": {"вопрос": text("Кто ты?")}},
        [conversation(("clé-é 🔑", user("Où est Besançon ? 🧭"))), questions("ключ", user("Кто ты?"))],
        [],
    ),
    "keys that are not 1 to n keep their names": (
        {"prompt7": [text("Hi")]},
        [conversation(("prompt7", user("Hi")))],
        [],
    ),
    "a user message that the file itself answers": (
        {"a": [text("Hi")], "b": [role("assistant"), text("Hello.")], "c": [text("Bye")]},
        [conversation(("c", user("Bye")), history=(user("Hi"), assistant("Hello.")))],
        [],
    ),
    "messages after the user's last": (
        {"a": [text("Hi")], "b": [role("assistant"), text("Hello.")]},
        [conversation(("a", user("Hi")))],
        ["'a'"],
    ),
    "a system message between two open turns goes with the later": (
        {"a": [text("Hi")], "b": [role("system"), text("Shout.")], "c": [text("Bye")]},
        [conversation(("a", user("Hi")), ("c", Message("system", ("Shout.",)), user("Bye")))],
        [],
    ),
}


@pytest.mark.parametrize(("prompts", "dialogues", "warnings"), TABLE.values(), ids=TABLE)
def test_prompts_are_read_as(prompts, dialogues, warnings, caplog):
    assert read(prompts) == (dialogues, {})
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == len(warnings)
    assert all(word in message for word, message in zip(warnings, messages, strict=True))


UNREADABLE = {
    "no object": (["Hi"], "a list"),
    "text": ("Hi", "text"),
    "null": (None, "null"),
    "no prompts": ({"prompt": {}}, "'prompts'"),
    "no prompts in it": ({"prompts": {}}, "empty"),
    "prompts that are a list": ({"prompts": [text("Hi")]}, "a list"),
    "prompts that are null": ({"prompts": None}, "null"),
    "only empty prompts": ({"prompts": {"a": [], "b": {}}}, "nothing to ask"),
    "only a system message": ({"prompts": {"a": [role("system"), text("Be kind.")]}}, "nothing to ask"),
    "only a prompt of the wrong type": ({"prompts": {"a": "Hi"}}, "'a'"),
}


@pytest.mark.parametrize(("item", "reason"), UNREADABLE.values(), ids=UNREADABLE)
def test_an_item_with_nothing_to_ask_is_an_error_that_says_why(item, reason):
    with pytest.raises(PromptError, match=reason):
        prompt_items.read(item, "the item", {})


@pytest.mark.parametrize("prompt", ["Hi", 3, None, True, text("Hi")], ids=str)
def test_a_prompt_that_is_neither_format_is_named_and_the_others_are_read(prompt):
    dialogues, errors = read({"bad": prompt, "good": [text("Hi")]})
    assert dialogues == [conversation(("good", user("Hi")))]
    assert list(errors) == ["bad"]
    assert isinstance(errors["bad"], PromptError)
    assert "make it one of them" in str(errors["bad"])


PAIR = {"a": [text("One")], "b": [text("Two")]}
TRIO = PAIR | {"c": [text("Three")]}
ANSWERED_PAIR = conversation(("b", user("Two")), history=(user("One"), assistant("1")))
OPEN_PAIR = conversation(("a", user("One")), ("b", user("Two")))

HISTORY = {
    "unanswered turns are open": (PAIR, [], OPEN_PAIR),
    "an answered turn is history": (PAIR, [answer("a", "1")], ANSWERED_PAIR),
    "the last turn is open again, without its old answer": (
        PAIR,
        [answer("a", "1"), answer("b", "2")],
        ANSWERED_PAIR,
    ),
    "an earlier unanswered turn is open, a later answered one is not": (
        TRIO,
        [answer("b", "2")],
        conversation(("a", user("One")), ("c", user("Two"), assistant("2"), user("Three"))),
    ),
    "another model's answer": (PAIR, [answer("a", "1", name="other")], OPEN_PAIR),
    "a human's annotation": (
        PAIR,
        [answer("a", "1", metadata={"system": {"promptId": "a"}, "user": {}})],
        OPEN_PAIR,
    ),
    "an annotation of another type": (PAIR, [answer("a", "1", type="box"), {"type": "class"}], OPEN_PAIR),
    "a label of a classification": (PAIR, [answer("a", "", type="class", label="1")], ANSWERED_PAIR),
    "an answer to no prompt of the item": (PAIR, [answer("z", "1")], OPEN_PAIR),
    "an empty answer": (PAIR, [answer("a", "")], OPEN_PAIR),
    "the model is named in metadata.user alone": (
        PAIR,
        [answer("a", "1", metadata={"system": {"promptId": "a"}, "user": {"model": {"name": MODEL}}})],
        ANSWERED_PAIR,
    ),
    "the model is named in metadata.system alone": (
        PAIR,
        [answer("a", "1", metadata={"system": {"promptId": "a", "model": {"name": MODEL}}})],
        ANSWERED_PAIR,
    ),
    "the newest of several answers": (
        PAIR,
        [answer("a", "1", created="2026-02-01"), answer("a", "old", created="2026-01-01")],
        ANSWERED_PAIR,
    ),
    "the last of several undated answers": (
        PAIR,
        [answer("a", "old", created=None), answer("a", "1", created=None)],
        ANSWERED_PAIR,
    ),
    "annotations that are no annotations": (PAIR, [None, 3, {"metadata": {"system": 4}}], OPEN_PAIR),
}


@pytest.mark.parametrize(("prompts", "annotations", "dialogue"), HISTORY.values(), ids=HISTORY)
def test_earlier_answers_come_from_this_models_annotations(prompts, annotations, dialogue):
    assert read(prompts, annotations) == ([dialogue], {})


def test_questions_are_all_asked_again_whatever_was_answered():
    dialogues, _ = read({"a": {"1": text("One"), "2": text("Two")}}, [answer("a", "1"), answer("a", "2")])
    assert dialogues == [questions("a", user("One"), user("Two"))]


def test_warnings_name_the_item_and_the_key_and_no_text(caplog):
    item = {
        "filename": "/secret.json",
        "id": "42",
        "prompts": {"a": [text("hush", "audio/*"), text("Hi there")]},
    }
    Item.of(item, MODEL)
    (record,) = caplog.records
    assert "/secret.json" in record.getMessage()
    assert "'a'" in record.getMessage()
    assert "hush" not in caplog.text
    assert "Hi there" not in caplog.text


@pytest.mark.parametrize(
    ("item", "name"),
    [
        ({"filename": "/a.json", "id": "1"}, "/a.json"),
        ({"id": "1"}, "1"),
        ({"filename": 3}, "item 3"),
        (7, "item 3"),
    ],
)
def test_an_item_is_named_by_its_file_then_its_id(item, name):
    assert item_name(item, "item 3") == name


words = st.sampled_from(
    ["prompts", "value", "mimetype", "metadata", "role", "text", "image/*", "system", "a", ""]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words | st.text(), inner, max_size=4),
    max_leaves=20,
)
items = values | st.fixed_dictionaries(
    {"prompts": st.dictionaries(st.text(), values, max_size=4)},
    optional={"annotations": values, "filename": values, "id": values},
)


@given(items)
def test_any_json_is_read_or_refused(item):
    logging.disable()  # Drawn items warn by the thousand.
    try:
        found = Item.of(item, MODEL)
    finally:
        logging.disable(logging.NOTSET)
    if found.error is not None:
        return
    assert found.dialogues
    assert all(dialogue.turns for dialogue in found.dialogues)
    turns = [turn for dialogue in found.dialogues for turn in dialogue.turns]
    assert {turn.key for turn in turns} | set(found.unreadable) <= set(item["prompts"])
    assert all(turn.messages[-1].role == "user" for turn in turns)
    assert all(part for turn in turns for message in turn.messages for part in message.parts)


def test_a_name_is_one_line_whatever_it_holds():
    assert item_name({"filename": "/Grüße.json"}, "x") == "/Grüße.json"
    assert item_name({"filename": "/a\nERROR: b.json"}, "x") == "'/a\\nERROR: b.json'"
    assert item_name({"id": "\ud83d"}, "x") == "'\\ud83d'"
