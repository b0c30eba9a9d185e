"""Prompts fit the context length: the oldest turns are dropped, the question never."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import PromptError
from engine.options import GenerationOptions
from engine.types import Message
from tests import tiny
from tests.helpers.prompters import IGNORING, REFUSING, prompter, read
from tests.helpers.talk import said

pytestmark = pytest.mark.numeric

QUESTION, ANSWER = "q" * 10, "a" * 10


def chat_of(turns: int) -> tuple[Message, ...]:
    """A conversation whose questions and answers are 10 tokens each, and the last question "open"."""
    return said(*[QUESTION, ANSWER] * turns, "open")


def test_a_conversation_that_fits_is_read_whole():
    writer = prompter(
        IGNORING, context_length=len("[user][assistant]" + 20 * "x") * 3 + len("[user]open[assistant]") + 8
    )
    assert read(writer, *chat_of(3), max_new_tokens=8).count(QUESTION) == 3


@pytest.mark.parametrize("dropped", [0, 1, 2, 3])
def test_no_more_turns_are_dropped_than_must_be_the_oldest_first_with_their_answers(dropped: int):
    questions = [f"question {i}" for i in range(3)]
    chat = said(*(text for i in range(3) for text in (questions[i], f"answer {i}")), "open")
    shortest = (
        "".join(f"[user]question {i}[assistant]answer {i}" for i in range(dropped, 3))
        + "[user]open[assistant]"
    )
    writer = prompter(IGNORING, context_length=len(shortest) + 8)
    assert read(writer, *chat, max_new_tokens=8) == shortest


@pytest.mark.parametrize("template", [tiny.CHAT_TEMPLATE, REFUSING])
def test_the_system_prompt_and_the_open_question_are_kept(template: str):
    prompt = read(
        prompter(template, context_length=64), *chat_of(9), system_prompt="Be brief.", max_new_tokens=8
    )
    assert "Be brief." in prompt
    assert "open" in prompt
    assert prompt.count(QUESTION) == prompt.count(ANSWER) < 9


def test_the_open_question_is_all_that_follows_the_last_answer():
    system = Message("system", ("Be brief.",))
    chat = [*said("old" * 9, "answer", "my name is Ann"), system, *said("who am I?")]
    shortest = "[user]my name is Ann\nBe brief.\nwho am I?[assistant]"
    assert read(prompter(IGNORING, context_length=len(shortest) + 1), *chat) == shortest
    with pytest.raises(PromptError, match="this turn alone"):
        read(prompter(IGNORING, context_length=len(shortest)), *chat)


def test_an_answer_has_half_of_the_window_at_most_kept_for_it():
    writer = prompter(IGNORING, context_length=120)
    prompt = read(writer, *chat_of(9), max_new_tokens=10_000)
    assert prompt.count(QUESTION) == 1
    assert len(prompt) <= 60


def test_a_long_open_question_may_take_what_is_left_of_the_window():
    writer = prompter(IGNORING, context_length=100)
    ids = writer.encode(said("x" * 82), GenerationOptions(max_new_tokens=50))
    assert len(ids) == 99
    assert writer.max_answer_tokens(len(ids), GenerationOptions(max_new_tokens=50)) == 1


def test_a_turn_that_cannot_fit_is_refused_with_both_lengths():
    with pytest.raises(
        PromptError, match="this turn alone is 100 tokens long and the model's context length is 100 tokens"
    ):
        read(prompter(IGNORING, context_length=100), *chat_of(3)[:-1], *said("x" * 83))


def test_overflow_may_be_an_error_instead():
    with pytest.raises(
        PromptError, match=r'the conversation is 354 tokens long .* 100 .* overflow to "drop_oldest"'
    ):
        read(prompter(IGNORING, context_length=100), *chat_of(9), overflow="error")


def test_overflow_as_an_error_leaves_a_conversation_that_fits_alone():
    prompt = read(prompter(IGNORING, context_length=100), *chat_of(2), overflow="error", max_new_tokens=90)
    assert prompt.count(QUESTION) == 2


def test_a_model_without_a_bound_reads_everything():
    writer = prompter()
    assert read(writer, *chat_of(200)).count(QUESTION) == 200
    assert writer.max_answer_tokens(10**6, GenerationOptions(max_new_tokens=10**6)) == 10**6


def test_the_prompt_of_an_encoder_has_the_window_to_itself():
    writer = prompter(None, "bart", context_length=20)
    assert len(writer.encode(said("x" * 20), GenerationOptions(max_new_tokens=99))) == 20
    assert writer.max_answer_tokens(20, GenerationOptions(max_new_tokens=99)) == 20
    with pytest.raises(PromptError, match="21 tokens long"):
        writer.encode(said("x" * 21), GenerationOptions())


TEXT = st.text("ab ö日", min_size=1, max_size=30)
HISTORY = st.lists(
    st.builds(Message, st.sampled_from(["system", "user", "assistant"]), st.tuples(TEXT)), max_size=8
)


@given(
    template=st.sampled_from([tiny.CHAT_TEMPLATE, REFUSING, IGNORING, None]),
    architecture=st.sampled_from(["llama", "t5"]),
    context_length=st.integers(2, 160),
    history=HISTORY,
    question=TEXT.filter(str.strip),
    options=st.builds(
        GenerationOptions,
        max_new_tokens=st.integers(1, 200),
        overflow=st.sampled_from(["drop_oldest", "error"]),
        system_prompt=st.none() | TEXT,
    ),
)
def test_a_prompt_is_refused_or_it_fits_with_its_answer_and_holds_the_whole_question(
    template, architecture, context_length, history, question, options
):
    writer = prompter(template, architecture, context_length)
    try:
        ids = writer.encode([*history, *said(question)], options)
    except PromptError:
        return
    limit = writer.max_answer_tokens(len(ids), options)
    assert 1 <= limit <= options.max_new_tokens
    assert max(len(ids), limit) <= context_length if writer.seq2seq else len(ids) + limit <= context_length
    prompt = writer.tokenizer.decode(ids)
    assert question in prompt
    system = [message.text for message in history if message.role == "system"] or [
        options.system_prompt or ""
    ]
    assert all(text.strip() in prompt for text in system)


@given(
    template=st.sampled_from([tiny.CHAT_TEMPLATE, REFUSING, IGNORING]),
    context_length=st.integers(30, 160),
    turns=st.integers(0, 6),
    system=st.none() | TEXT,
    question=TEXT.filter(str.strip),
)
def test_a_conversation_is_refused_only_where_its_open_question_alone_would_be(
    template, context_length, turns, system, question
):
    writer, options = (
        prompter(template, context_length=context_length),
        GenerationOptions(system_prompt=system),
    )
    alone = len(prompter(template).encode(said(question), options))
    chat = [*said(*[QUESTION, ANSWER] * turns), *said(question)]
    if alone < context_length:
        assert len(writer.encode(chat, options)) >= alone
    else:
        with pytest.raises(
            PromptError, match=f"this turn alone is {alone} tokens long .* {context_length} tokens"
        ):
            writer.encode(chat, options)
