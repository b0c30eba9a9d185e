"""Reading: a long text has the tokens it has as a whole, what is put around it stands there once."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from engine.options import GenerationOptions
from engine.prompting.escaping import ControlTokenEscaper
from engine.prompting.prompter import Prompter
from engine.prompting.renderer import ChatRenderer
from engine.prompting.tokenization import SectionTokenizer, special_tokens_around, with_prefix_once
from tests import tiny
from tests.helpers.talk import said
from tests.helpers.tiny_tokenizers import KINDS, byte_level, in_python, made

PARTS = [
    "It is",
    " true",
    "  ",
    "\n",
    " the words",
    "of a text",
    "<s>",
    "</s>",
    " 日本",
    "é",
    ".",
    ",",
    "  a",
    " A",
]
LONG = st.lists(st.sampled_from(PARTS), min_size=5, max_size=40).map(lambda parts: "".join(parts) * 60)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(text=LONG)
def test_a_long_text_has_the_tokens_it_has_as_a_whole(kind, text: str):
    tokenizer = made(kind)
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ControlTokenEscaper(tokenizer).tokenize(text) == whole


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(parts=st.lists(st.sampled_from(PARTS), min_size=1, max_size=12), cut=st.data())
def test_a_text_and_its_ending_have_the_tokens_of_both_as_a_whole(kind, parts: list[str], cut: st.DataObject):
    tokenizer, text = made(kind), "".join(parts)
    place = cut.draw(st.integers(0, len(text)))
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ControlTokenEscaper(tokenizer).tokenize(text[:place], text[place:]) == whole


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("added", ["</s>it", "is </s>it", "<end>"])
def test_an_ending_may_make_another_token_of_the_last_one(kind, added: str):
    tokenizer = made(kind)
    tokenizer.add_tokens([AddedToken(added, single_word=added == "<end>", normalized=False)])
    for text in ("it is </s>", "it is <end>"):
        whole = tokenizer(f"{text}it", add_special_tokens=False)["input_ids"]
        assert ControlTokenEscaper(tokenizer).tokenize(text, "it") == whole


def counting_sections() -> tuple[SectionTokenizer, list[int]]:
    """A tokenizer of sections, and the length of each text that it has encoded so far."""
    tokenizer, read = made(byte_level), []

    def encode(text: str) -> list[int]:
        read.append(len(text))
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    sections = SectionTokenizer(
        encode, tokenizer.backend_tokenizer, ControlTokenEscaper(tokenizer).added_tokens
    )
    return sections, read


def test_endings_are_read_once_for_many_texts_and_texts_for_many_endings():
    sections, read = counting_sections()
    texts, endings = [f"{i} " * 200 + "</s>" for i in range(20)], [f"ending {i}" for i in range(20)]
    for text in texts:
        for ending in endings:
            sections(text, ending)
    assert sum(read) < 2 * sum(map(len, texts))


def test_a_tokenizer_in_python_reads_texts_whole():
    tokenizer, text = in_python(), "a long text</s> " * 500
    assert (
        ControlTokenEscaper(tokenizer).tokenize(text)
        == tokenizer(text, add_special_tokens=False)["input_ids"]
    )


@pytest.mark.parametrize("between", ["</s>", " and so on, "], ids=["control tokens", "words"])
def test_a_text_that_grows_is_read_where_it_has_grown(between: str):
    sections, read = counting_sections()
    turns = [f"this is what is said in turn {i}{between}" for i in range(400)]
    for count in range(1, len(turns)):
        sections("".join(turns[:count]))
    assert sum(read) < 400 * 4096


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("$A", ([], [])),
        ("<s> $A", ([1], [])),
        ("$A </s>", ([], [2])),
        ("<s> $A </s>", ([1], [2])),
        ("<s> <unk> $A </s> <s>", ([1, 0], [2, 1])),
    ],
)
def test_what_a_tokenizer_puts_around_a_text_is_found(kind, form: str, expected: tuple):
    assert special_tokens_around(made(kind, form)) == expected


def test_what_begins_a_text_begins_it_once():
    assert with_prefix_once([5, 6], [1]) == with_prefix_once([1, 5, 6], [1]) == [1, 5, 6]
    assert with_prefix_once([5], []) == [5]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["$A", "<s> $A", "$A </s>", "<s> $A </s>"])
def test_a_decoders_prompt_goes_on_and_an_encoders_ends_as_its_tokenizer_ends_it(kind, form: str):
    tokenizer = made(kind, form)
    bare = tokenizer("it is true", add_special_tokens=False)["input_ids"]
    before, after = [1] * form.startswith("<s>"), [2] * form.endswith("</s>")
    decoder, encoder = (Prompter(tokenizer, tiny.CONFIGS[name](), None) for name in ("llama", "t5"))
    assert decoder.tokenize_plain("it is true") == before + bare
    assert encoder.tokenize_plain("it is true") == before + bare + after
    asked = decoder.encode(said("it is true"), GenerationOptions(chat_template="raw"))
    assert asked == before + bare


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_that_has_its_beginning_gets_no_second(kind):
    tokenizer = made(kind, "<s> $A </s>")
    prompter = Prompter(tokenizer, tiny.CONFIGS["llama"](), None)
    assert prompter.tokenize_plain("<s>it is")[:2] != [1, 1]
    assert prompter.tokenize_plain("<s>it is") == tokenizer("<s>it is", add_special_tokens=False)["input_ids"]


def test_what_a_caller_ends_with_an_end_token_keeps_it():
    prompter = Prompter(made(byte_level, "<s> $A </s>"), tiny.CONFIGS["llama"](), None)
    assert prompter.tokenize_plain("it is</s>")[-1] == 2


def test_a_long_conversation_that_does_not_fit_is_not_written_whole_for_each_turn(monkeypatch):
    prompter, written = Prompter(tiny.byte_tokenizer(), tiny.CONFIGS["llama"](), 512), []
    write = ChatRenderer.render
    monkeypatch.setattr(
        ChatRenderer, "render", lambda self, chat: written.append(len(chat)) or write(self, chat)
    )
    texts: list[str] = []
    for i in range(150):
        texts += [f"question number {i}", f"answer number {i}"]
        prompter.encode(said(*texts[:-1]), GenerationOptions(max_new_tokens=8))
    assert sum(written) < 150 * 120
