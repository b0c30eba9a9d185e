"""Plain items become prompt items by a template."""

import json

import pytest

from adapters.items.plain import PromptTemplate
from engine.errors import ConfigurationError, PromptError


def made(template: str, labels=()) -> PromptTemplate:
    found = PromptTemplate.of(template, labels)
    assert found is not None
    return found


def question(item: dict) -> str:
    return item["prompts"]["1"]["1"]["value"]


def test_a_text_and_the_labels_are_put_into_the_question():
    template = made("Which of {labels} is this? {text}", ["good", "bad"])
    assert question(template.item("Nice {text}.")) == "Which of good, bad is this? Nice {text}."


def test_values_of_an_object_are_texts_as_json_has_them():
    row = {"text": "a", "n": 3, "yes": True, "list": ["ü", 1], "prompts": "a column's name"}
    assert question(made("{text} {n} {yes} {list}").item(row)) == 'a 3 true ["ü", 1]'


@pytest.mark.parametrize("kind", ["questions", "messages"])
def test_what_is_a_prompt_item_or_a_trace_stays(kind: str, request: pytest.FixtureRequest):
    item = request.getfixturevalue(kind)
    trace = {"messages": [{"role": "user", "content": "Hi"}]}
    template = made("{text}?")
    assert (template.item(item), template.item(trace)) == (item, trace)
    assert template.item_of_file(json.dumps(item).encode()) == item
    assert template.question_of_file(json.dumps(trace).encode()) is None


def test_a_file_is_its_text_and_the_keys_of_its_json():
    template = made("{text}")
    assert question(template.item_of_file("\ufeffHellö".encode())) == "Hellö"
    assert question(template.item_of_file(b'{"a": 1}')) == '{"a": 1}'
    assert question(template.item_of_file(b'{"text": "b"}')) == "b"
    assert question(made("{a}").item_of_file(b'{"a": 1}')) == "1"
    assert question(template.item_of_file(b"[1]")) == "[1]"
    assert question(template.item_of_file(b"[" * 100_000)) == "[" * 100_000


@pytest.mark.parametrize(
    ("template", "content", "said"),
    [
        ("{title} {body}", b'{"name": "x", "n": 1, "body": null}', "it has no {title} and no {body}"),
        ("{title} {text}", b"x", "it has no {title} of prompt_template: it has text"),
        ("{labels} {text}", b"x", "prompt_template has {labels}: set the option labels"),
        ("{text}", b" \n", "it has no text"),
        ("{text}", b"\xff\xfe", "its content is not UTF-8 text"),
    ],
)
def test_what_is_missing_is_named(template: str, content: bytes, said: str):
    with pytest.raises(PromptError) as raised:
        made(template).item_of_file(content)
    assert said in str(raised.value)


def test_a_template_of_a_users_own_model_file_is_checked_too():
    assert PromptTemplate.of(None, ["a"]) is None
    for wrong in (3, "{a.b}"):
        with pytest.raises(ConfigurationError, match="option 'prompt_template'"):
            PromptTemplate.of(wrong, ())
