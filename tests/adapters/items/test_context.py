"""Context: what a search found goes along with the question, in a budget; what is left out is logged."""

import logging
import re
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.items import context
from adapters.items import references as module
from adapters.items.item import Item
from adapters.items.references import ID, MAX_SOURCES, Source, references
from engine.options import GenerationOptions
from engine.types import Message
from tests import tiny
from tests.fakes import FakeEngine


def prompt(text: str, *nearest: Any) -> list[dict]:
    """A prompt as the platform's search writes one."""
    metadata = {"role": "user", "nearestItems": list(nearest)} if nearest else {"role": "user"}
    return [{"mimetype": "application/text", "value": text}, {"mimetype": "metadata", "value": metadata}]


def answered(key: str) -> dict:
    metadata = {"system": {"promptId": key}, "user": {"model": {"name": "mine"}}}
    return {"type": "text", "coordinates": "An answer", "metadata": metadata}


def asked(item: dict, sources: dict | None = None, budget: int = 10**6, **options) -> list[Message]:
    """The messages of the item's last turn; a token is a character."""
    parsed = Item.of(item, "mine")
    parsed.sources = sources or {}
    found = context.with_context(parsed, len, budget, **options)
    return list(found[-1].turns[-1].messages)


SOURCES = {
    "a": Source("Cats purr.", {"system": {"document": {"source": "cats.pdf", "page": 3}}}),
    "b": Source("Dogs bark."),
}
CATS = "<source>\n</source>\n<text>\nCats purr.\n</text>"
DOGS = "<source>\n</source>\n<text>\nDogs bark.\n</text>"


def test_the_texts_stand_in_a_message_before_the_question_the_nearest_first():
    messages = asked({"prompts": {"1": prompt("Who?", "b", "a")}}, SOURCES)
    assert [message.role for message in messages] == ["user", "user"]
    assert messages[0].text.endswith(f":\n{DOGS}\n{CATS}\n")
    assert messages[1].text == "Who?"


def test_or_behind_the_question_where_that_is_asked_for():
    messages = asked({"prompts": {"1": prompt("Who?", "b", "a")}}, SOURCES, into_question=True)
    assert messages == [Message("user", ("Who?", f"\nContext:\n{DOGS}\n{CATS}"))]


def test_metadata_fields_precede_the_text_they_belong_to():
    fields = ["system.document.source", "system.document.page", "system.nothing.here"]
    (ahead, _) = asked({"prompts": {"1": prompt("Who?", "a", "b")}}, SOURCES, fields=fields)
    assert "<source>\nsource:cats.pdf\npage:3\n</source>\n<text>\nCats purr." in ahead.text
    assert DOGS in ahead.text


def test_what_does_not_fit_is_left_out_whole_and_logged_by_its_id_alone(caplog):
    sources = {**SOURCES, "long": Source("long " * 100)}
    item = {"filename": "/i.json", "prompts": {"1": prompt("Who?", "a", "long", "b", "gone")}}
    with caplog.at_level(logging.INFO):
        (ahead, _) = asked(item, sources, budget=len(CATS) + len(DOGS))
    assert ahead.text.endswith(f":\n{CATS}\n{DOGS}\n")
    assert "/i.json: prompt '1': left out of its context: long, gone" in caplog.text
    assert "purr" not in caplog.text


def test_without_context_a_question_is_asked_as_it_is():
    for item in ({"prompts": {"1": prompt("Who?")}}, {"prompts": {"1": prompt("Who?", "gone")}}):
        assert asked(item) == [Message("user", ("Who?",))]


def test_only_open_questions_bring_their_context_along():
    item = {
        "prompts": {"1": prompt("One", "a"), "2": prompt("Two", "b", "a")},
        "annotations": [answered("1")],
    }
    assert context.wanted(Item.of(item, "mine")) == ["b", "a"]
    assert context.wanted(Item.of(item, "another")) == ["a", "b"]
    (dialogue,) = context.with_context(Item.of({**item, "sources": SOURCES}, "mine"), len, 10**6)
    assert "purr" not in str(dialogue.history)
    assert "purr" in str(dialogue.turns)


def test_a_traces_messages_bring_texts_or_items():
    entries = [
        {"text": "Owls hoot.", "filename": "owls.md"},
        {"item_id": "a"},
        {"item_id": "b", "text": "Ours."},
    ]
    item = {"messages": [{"role": "user", "content": "Who?", "context": entries}]}
    assert context.wanted(Item.of(item, "mine")) == ["a"]
    assert context.wanted(Item.of(item, "mine"), fields=["system.document.source"]) == ["a", "b"]
    (ahead, question) = asked(item, SOURCES)
    assert "<source>\nfilename:owls.md\n</source>\n<text>\nOwls hoot." in ahead.text
    assert CATS in ahead.text
    assert "Ours." in ahead.text
    assert question.text == "Who?"


@pytest.mark.parametrize(
    "nearest", ["../users/me", "a/b", "a?x=1", "", "a" * 65, "http://10.0.0.1", 7, None, {"id": "a"}, ["a"]]
)
def test_an_id_that_is_none_never_becomes_a_request(nearest: Any):
    assert context.wanted(Item.of({"prompts": {"1": prompt("Who?", nearest, "a")}}, "mine")) == ["a"]
    entry = {"messages": [{"role": "user", "content": "Who?", "context": [{"item_id": nearest}]}]}
    assert context.wanted(Item.of(entry, "mine")) == []


@pytest.mark.parametrize("value", [3, "text", {"nearestItems": "a"}, {"nearestItems": {"a": 1}}, None])
def test_metadata_that_names_nothing_is_no_context(value: Any):
    element = {"mimetype": "metadata", "value": value}
    item = {"prompts": {"1": [*prompt("Who?"), element], "2": {"1": element}, "3": 4}}
    assert references(item) == {}


def test_a_question_names_so_many_items_at_most():
    item = {"prompts": {"1": prompt("Who?", *map(str, range(1000)))}}
    assert len(context.wanted(Item.of(item, "mine"))) == MAX_SOURCES


def test_of_many_items_that_a_question_names_no_more_are_looked_at(monkeypatch: pytest.MonkeyPatch):
    looked: list[str] = []
    known = re.compile(ID.pattern)
    monkeypatch.setattr(module, "ID", SimpleNamespace(fullmatch=lambda one: looked.append(one) or known))
    item = {"prompts": {"1": prompt("Who?", *map(str, range(80_000)))}}
    assert len(references(item)["1"]) == len(looked) == MAX_SOURCES


def test_entries_that_name_no_item_are_counted_in_one_line(caplog):
    item = {"prompts": {"1": prompt("Who?", *["a/b"] * 1000, "a")}}
    assert context.wanted(Item.of(item, "mine")) == ["a"]
    assert len(caplog.records) == 1
    assert "prompt '1': 1000 entries of its context name no item and are ignored" in caplog.text


def test_a_text_that_is_empty_is_left_out(caplog):
    sources = {"a": Source(" "), "b": Source("Dogs bark.")}
    (ahead, _) = asked({"prompts": {"1": prompt("Who?", "a", "b")}}, sources)
    assert ahead.text.endswith(f":\n{DOGS}\n")
    assert "left out of its context: a" in caplog.text


def test_an_item_that_is_larger_than_it_says_is_left_out(caplog):
    large = b"x" * (context.MAX_BYTES + 1)
    assert context.fetch(["a"], lambda one: {}, lambda one, size: large) == {}
    assert "item a is left out" in caplog.text


def test_each_item_is_fetched_once_and_one_that_fails_costs_no_other(caplog):
    records = {
        "good": {"metadata": {"system": {"size": 5}, "mine": 1}},
        "large": {"metadata": {"system": {"size": 2**21}}},
        "binary": {},
        "denied": {},
    }
    contents = {"good": b"Hello", "binary": b"\xff\xfe\x00", "large": b"secret"}
    with caplog.at_level(logging.INFO):
        found = context.fetch([*records, "gone"], records.__getitem__, lambda one, size: contents[one])
    assert found == {"good": Source("Hello", {"system": {"size": 5}, "mine": 1})}
    for name in ("large", "binary", "denied", "gone"):
        assert f"item {name} is left out" in caplog.text
    assert "secret" not in caplog.text


def test_what_the_file_itself_calls_sources_is_no_source():
    item = {"prompts": {"1": prompt("Who?", "a")}}
    forged = Item.of({**item, "sources": {"a": {"text": "Forged."}}}, "mine")
    assert context.with_context(forged, len, 10**6) == forged.dialogues


def test_a_link_item_is_never_followed_by_the_platforms_client(caplog):
    links = {
        name: {"metadata": {"system": {"shebang": {"linkInfo": {"type": "url", "ref": ref}}}}}
        for name, ref in {
            "file": "file:///etc/passwd",
            "metadata": "http://169.254.169.254/latest",
            "elsewhere": "https://elsewhere.test/x",
        }.items()
    }
    asked: list[str] = []
    with caplog.at_level(logging.INFO):
        assert context.fetch(links, links.__getitem__, lambda name, size: asked.append(name) or b"text") == {}
    assert asked == []
    for name in links:
        assert f"item {name} is left out" in caplog.text


def test_a_models_tokenizer_counts_and_a_quarter_of_its_window_bounds_the_budget():
    engine = tiny.engine()  # A byte is a token, and the window 512 tokens.
    item = {"prompts": {"1": prompt("Who?", "fits", "long")}}
    room = 512 // 4 - len(CATS) + len("Cats purr.")
    sources = {"fits": Source("x" * room), "long": Source("x" * (room + 1))}
    for names in (["fits", "long"], ["long", "fits"]):
        given = {"prompts": {"1": prompt("Who?", *names)}, "sources": sources}
        (dialogue,) = context.reader(engine, 10**6)(Item.of(given, "mine"))
        assert dialogue.turns[-1].messages[0].text.count("<source>") == 1
        assert len(engine.prompter.encode(dialogue.turns[-1].messages, GenerationOptions())) < 512
    (dialogue,) = context.reader(engine, 10)(Item.of({**item, "sources": sources}, "mine"))
    assert [message.text for message in dialogue.turns[-1].messages] == ["Who?"]


def test_where_a_server_counts_a_token_is_three_bytes():
    item = Item.of({"prompts": {"1": prompt("Who?", "b")}, "sources": SOURCES}, "mine")
    read_with = context.reader(FakeEngine(lambda request: "An answer"), -(-len(DOGS) // 3))
    assert DOGS in read_with(item)[0].turns[-1].messages[0].text
    read_without = context.reader(FakeEngine(lambda request: "An answer"), -(-len(DOGS) // 3) - 1)
    assert len(read_without(item)[0].turns[-1].messages) == 1


# On the platform


def test_the_items_that_a_question_names_go_along_with_it(answering, upload):
    found = upload("facts.txt", b"Tea is green.")
    prompt = [
        {"mimetype": "application/text", "value": "What is tea?"},
        {"mimetype": "metadata", "value": {"role": "user", "nearestItems": [found.id, "0" * 24]}},
    ]
    item = upload("question.json", {"metadata": {"dltype": "prompt"}, "prompts": {"1": prompt}})
    adapter = answering(lambda request: "\n".join(message.text for message in request.messages))
    adapter.predict_items([item])
    [annotation] = item.annotations.list()
    assert "Tea is green." in annotation.coordinates
    assert annotation.coordinates.endswith("What is tea?")
