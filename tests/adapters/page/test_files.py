"""Conversations → prompt items and JSON → conversations."""

import json
from pathlib import Path

import pytest

from adapters.items.item import Item
from adapters.page import files
from adapters.page.session import Session
from engine.errors import PromptError
from engine.options import GenerationOptions
from tests.adapters.page.fakes import LettersEngine

ITEMS = Path(__file__).parents[3] / "examples" / "items"


def talked(**options) -> Session:
    """Two questions to two models, answered."""
    session = Session([[], []])
    engines = LettersEngine(lambda _: "one"), LettersEngine(lambda _: "two")
    for text in ("Hello", "And again"):
        session.ask(text)
        for model, engine in enumerate(engines):
            list(session.answer(model, engine, GenerationOptions(**options)))
    return session


def by_name(session: Session) -> dict:
    return dict(zip(("first", "second"), session.conversations, strict=True))


def test_a_conversation_is_a_prompt_item_that_is_read_as_it_was():
    item = files.as_item(by_name(talked(system_prompt="Be brief.")))
    read = Item.parse(item, "first", "item.json", answers=item["annotations"])
    assert read.error is None
    [dialogue] = read.dialogues
    said = [message.text for message in (*dialogue.history, *dialogue.turns[-1].messages)]
    assert said == ["Be brief.", "Hello", "one", "And again"]


def test_a_saved_item_is_opened_with_the_answers_of_each_model():
    saved = json.dumps(files.as_item(by_name(talked()))).encode()
    [conversations] = files.opened(saved, "item.json", ["first", "second"]).values()
    assert [[exchange.text for exchange in one] for one in conversations] == [["one", "one"], ["two", "two"]]
    assert [exchange.by for exchange in conversations[1]] == ["second", "second"]
    assert conversations[0][0].answer.confidence == 0.8


def test_answers_of_other_models_are_shown_where_there_are_no_own():
    saved = json.dumps(files.as_item(by_name(talked()))).encode()
    [[conversation]] = files.opened(saved, "item.json", ["third"]).values()
    assert conversation[0].by == "first"


def test_questions_without_an_answer_are_open():
    [[conversation]] = files.opened((ITEMS / "remember_me.json").read_bytes(), "x", ["m"]).values()
    assert len(conversation) == 7
    assert all(exchange.open for exchange in conversation)


def test_the_json_has_tokens_with_their_alternatives_and_the_options():
    record = files.as_json(by_name(talked(temperature=0.5, logprobs=True)))
    [first, _] = json.loads(json.dumps(record))["second"]
    assert first["text"] == "two"
    assert first["options"] == {"temperature": 0.5, "logprobs": True}
    assert [token["token"] for token in first["tokens"]] == ["t", "w", "o"]
    assert first["tokens"][0]["top_logprobs"][1]["token"] == "?"


@pytest.mark.parametrize("content", [b"\xff", b"{", b"[]", b'{"prompts": {}}'])
def test_a_file_that_is_no_prompt_item_is_refused_by_its_name(content: bytes):
    with pytest.raises(PromptError, match=r"notes\.json"):
        files.opened(content, "notes.json", ["m"])
