"""Conversations as HTML: what is shown of an answer, and that nothing written is read as HTML."""

import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from adapters.page import html
from adapters.page.session import Exchange
from engine.errors import PromptError
from engine.types import Answer, Message, Token, Usage

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)> &lt; \" ' {{7*7}} ${7*7}"


class Parsed(HTMLParser):
    """The tags and the text of HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


def exchange(text: str, tokens: tuple[Token, ...] | None = None, **facts) -> Exchange:
    facts = {"confidence": 0.5, "finish_reason": "stop", "usage": Usage(1, 2)} | facts
    answer = Answer(text, (), None, tokens=tokens, **facts)
    return Exchange((Message("user", ("Why?",)),), text, answer)


def test_each_token_has_its_probability_and_its_alternatives():
    tokens = (Token("Yes", math.log(0.6), (("Yes", math.log(0.6)), ("No", math.log(0.3)))),)
    shown = html.answer(exchange("Yes", tokens))
    assert "--p:0.6000" in shown
    assert Parsed(shown).text.startswith("Yes60.0% Yes30.0% No")


def test_a_token_that_is_none_of_the_likeliest_is_listed_with_them():
    tokens = (Token("Hm", math.log(0.01), (("Yes", math.log(0.9)),)),)
    assert Parsed(html.answer(exchange("Hm", tokens))).text.startswith("Hm90.0% Yes1.0% Hm")


def test_tokens_after_a_stop_string_are_not_shown():
    tokens = tuple(Token(text, 0.0) for text in ("One", " two", "END", ""))
    shown = html.answer(exchange("One tw", tokens))
    assert [shown for shown in re.findall(r'%"[^>]*>([^<]*)<', shown)] == ["One", " tw"]


@pytest.mark.parametrize(
    ("calibrated", "facts", "words"),
    [
        (True, {}, "confidence 0.500 · 50 of 100 such answers are right · 2 tokens"),
        (False, {}, "confidence 0.500 · 2 tokens"),
        (True, {"confidence": None}, "confidence unknown · 2 tokens"),
        (False, {"finish_reason": "length"}, "cut at max_new_tokens"),
    ],
)
def test_what_is_known_of_an_answer_is_said_below_it(calibrated: bool, facts: dict, words: str):
    assert words in html.answer(replace(exchange("Yes", **facts), calibrated=calibrated))


def test_nothing_that_was_written_is_html():
    token = Token(EVIL, math.log(0.5), ((EVIL, math.log(0.5)), ("<b>", -3.0)))
    failed = exchange("", error=PromptError(EVIL), finish_reason="error")
    named = Exchange((Message("user", ("Why?",)),), "x", exchange("x").answer, by=EVIL)
    for one in (exchange(EVIL), exchange(EVIL, (token,)), failed, named):
        parsed = Parsed(html.answer(one))
        assert parsed.tags <= {"div", "p", "span", "b", "code"}
        assert EVIL in parsed.text


def test_a_message_of_the_user_is_plain_text_to_gradio_and_comes_back_as_it_was_typed():
    text = EVIL + " a<b a < b & &amp; <!-- --> </p> <?php"
    [message, _] = html.messages([Exchange((Message("user", (text,)),))])
    shown = message["content"]["text"]
    assert Parsed(shown).tags == set()
    assert html.typed(shown) == text
    assert html.messages([Exchange((Message("user", ("a < b & c",)),))])[0]["content"]["text"] == "a < b & c"
