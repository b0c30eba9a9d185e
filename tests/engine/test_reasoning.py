"""What a model thinks is apart from what it says, whatever marks its family writes."""

import pytest

from engine.backends.answer_text import AnswerText
from engine.reasoning import (
    FORMS,
    Marks,
    ReasoningSplitter,
    first_answer_token,
    forms_of,
    opened_by,
    split_unopened,
    without_reasoning,
)
from tests import tiny

WITH_THOUGHT = [marks for marks in FORMS if marks.close]


def parted(pieces: list[str], opened: Marks | None = None) -> tuple[str | None, str]:
    splitter = ReasoningSplitter(opened)
    said = "".join(map(splitter.part, pieces))
    said += splitter.rest()
    return splitter.text, said


@pytest.mark.parametrize("marks", WITH_THOUGHT, ids=lambda marks: marks.open)
def test_each_familys_marks_are_known_however_the_text_is_cut(marks: Marks):
    text = f" {marks.open}Hm{marks.close}Yes"
    assert parted([text]) == parted(list(text)) == ("Hm", "Yes")
    assert parted(list(f"Hm{marks.close}Yes"), opened_by(f"[assistant]{marks.open}\n")) == ("Hm", "Yes")
    assert split_unopened(f"Hm{marks.close}Yes")[1:] == ("Hm", "Yes")
    assert without_reasoning(text) == "Yes"


def test_an_answer_may_be_marked_without_a_thought_before_it():
    assert parted(list("<|channel|>final<|message|>Yes")) == ("", "Yes")


@pytest.mark.parametrize("text", ["Yes", "<b>", "[1] Yes", "a <think>", "<thin"])
def test_what_is_no_thought_stays(text: str):
    assert parted([text]) == parted(list(text)) == (None, text)
    assert without_reasoning(text) == text


def test_a_thought_without_an_end_is_no_answer_and_stays_in_a_history():
    assert parted(list("<think>Hm")) == ("Hm", "")
    assert without_reasoning("<think>Hm") == "<think>Hm"


@pytest.mark.parametrize(
    ("prompt", "opens"),
    [("[assistant]<think>\n", True), ("<think>\n\n</think>\n\n", False), ("a <think> b", False), ("", False)],
)
def test_a_prompt_opens_a_thought_by_its_end(prompt: str, opens: bool):
    assert (opened_by(prompt) is not None) == opens


@pytest.mark.parametrize("template", [None, 3, {"fields": 3}, {"fields": {"thinking": {"open": ["a"]}}}])
def test_a_tokenizer_may_name_no_marks(template: object):
    assert forms_of(template) == FORMS


def test_a_tokenizer_may_name_its_own():
    fields = {"reasoning_content": {"open": "<hm>", "close": "</hm>"}}
    forms = forms_of({"fields": fields})
    splitter = ReasoningSplitter(forms=forms)
    assert splitter.part("<hm>a</hm>b") == "b"


@pytest.mark.parametrize(
    ("text", "first", "thought"),
    [
        ("<think>Hm</think>Yes", len("<think>Hm</think>"), "Hm"),
        ("<think>Hm</think>\n\n Yes", len("<think>Hm</think>\n\n "), "Hm"),
        ("<think></think>Yes", len("<think></think>"), None),
        ("Yes", 0, None),
        ("grün", 0, None),
    ],
)
def test_the_answers_first_token_is_found_where_marks_are_many_tokens(text: str, first: int, thought):
    tokenizer = tiny.byte_tokenizer()
    growing = AnswerText(tokenizer, [], ReasoningSplitter())
    pieces = [growing.add(token) for token in tokenizer.encode(text, add_special_tokens=False)]
    assert "".join(pieces).strip() == text.rpartition(">")[2].strip()
    assert (growing.first, growing.reasoning, growing.begun) == (first, thought, True)


def test_a_token_may_end_the_thought_and_begin_the_answer():
    tokenizer = tiny.byte_tokenizer()
    tokenizer.add_tokens(["k>Yes"])
    growing = AnswerText(tokenizer, [], ReasoningSplitter())
    ids = tokenizer.encode("<think>Hm</think>Yes, sir", add_special_tokens=False)
    assert "".join(map(growing.add, ids)) == "Yes, sir"
    assert (growing.head, tokenizer.decode(ids[growing.first :])) == ("Yes", "k>Yes, sir")


@pytest.mark.parametrize(
    ("tokens", "first"),
    [
        (["Yes", "!"], 0),
        ([" Yes", "!", "<|end|>"], 0),
        (["Hm", "</think>", "\n", "Yes", "!"], 2 + 1),
        (["Hm", "Yes", "!"], 1),  # Hidden, and without a mark.
        (["▁Y", "es!"], 0),  # The text's own tokens, spelled otherwise.
        (["Hm", "</think>", "▁Y", "es!"], 4),  # Which of them is the text cannot be told.
        (["Hm", "HmYes", "!"], 3),
    ],
)
def test_among_a_servers_tokens_the_answers_are_found_whether_or_not_it_tells_of_thoughts(
    tokens: list[str], first: int
):
    assert first_answer_token("Yes!", tokens, reasoned=False) == first
