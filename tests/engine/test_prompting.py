"""Prompting: what the model reads is a conversation as it was trained to read one, and it always fits."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing

from engine.errors import ConfigurationError, PromptError
from engine.options import GenerationOptions
from engine.prompting import Prompter
from engine.types import Image, Message
from tests import tiny
from tests.engine.talk import said

ALTERNATING = (
    "{% for message in messages %}{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant') }}{% endif %}"
    "[{{ message.role }}]{{ message.content }}{% endfor %}[assistant]"
)
# The two ways in which chat templates of the hub leave a system message out: loudly and silently.
REFUSING = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + ALTERNATING
IGNORING = (
    "{% for message in messages if message.role != 'system' %}"
    "[{{ message.role }}]{{ message.content }}{% endfor %}[assistant]"
)
WITH_BOS = "{{ bos_token }}" + ALTERNATING


def prompter(
    template: str | dict[str, str] | None = tiny.CHAT_TEMPLATE,
    architecture: str = "llama",
    window: int | None = None,
    before: str = "",
    after: str = "",
    **changes,
) -> Prompter:
    """A prompter for a byte tokenizer that itself puts special tokens before and after a text."""
    tokenizer = tiny.byte_tokenizer(template)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{before} $A {after}".strip(),
        special_tokens=[(name, i) for i, name in enumerate(tiny.SPECIALS)],
    )
    config = tiny.CONFIGS[architecture]()
    config.update(changes)
    return Prompter(tokenizer, config, window)


def read(prompter: Prompter, *messages: Message, **options) -> str:
    """The prompt as the model reads it, special tokens included."""
    return prompter.tokenizer.decode(prompter.encode(messages, GenerationOptions(**options)))


# Forms


def test_the_tokenizers_own_template_writes_the_prompt():
    writer = prompter()
    chat = [{"role": message.role, "content": message.text} for message in said("hi", "yo", "bye")]
    expected = writer.tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
    assert writer.encode(said("hi", "yo", "bye"), GenerationOptions()) == expected


def test_a_tokenizer_with_several_templates_uses_its_default():
    writer = prompter({"default": ALTERNATING, "tool_use": "no"})
    assert read(writer, *said("hi")) == "[user]hi[assistant]"


def test_a_tokenizer_with_several_templates_and_no_default_names_them():
    with pytest.raises(ConfigurationError, match=r"several chat templates \(tool_use, rag\)"):
        read(prompter({"tool_use": ALTERNATING, "rag": ALTERNATING}), *said("hi"))


def test_dialogpt_joins_turns_by_the_end_token():
    writer = prompter(None, "gpt2", task_specific_params={"conversational": {"max_length": 1000}})
    assert read(writer, *said("hi", "yo", "bye")) == "hi</s>yo</s>bye</s>"


def test_a_model_without_a_template_reads_a_transcript():
    expected = "Be brief.\nUser: hi\nAssistant: yo\nUser: bye\nAssistant:"
    for architecture in ("gpt2", "llama"):
        assert read(prompter(None, architecture), *said("hi", "yo", "bye", system="Be brief.")) == expected


def test_an_encoder_decoder_without_a_template_reads_the_bare_question():
    assert read(prompter(None, "t5", after="</s>"), *said("translate: hi")) == "translate: hi</s>"
    assert (
        read(prompter(None, "t5"), *said("hi", "yo", "bye"))
        == "User: hi\nAssistant: yo\nUser: bye\nAssistant:"
    )


def test_an_encoders_text_ends_as_its_tokenizer_ends_it_whoever_wrote_it():
    assert read(prompter(ALTERNATING, "t5", after="</s>"), *said("hi")) == "[user]hi[assistant]</s>"
    assert read(prompter(ALTERNATING, "llama", after="</s>"), *said("hi")) == "[user]hi[assistant]"


@pytest.mark.parametrize(
    ("template", "options", "stops"),
    [
        (None, {}, ("\nUser:",)),
        (None, {"stop": ["END"]}, ("END", "\nUser:")),
        (ALTERNATING, {"chat_template": "plain"}, ("\nUser:",)),
        (ALTERNATING, {"stop": ["END"]}, ("END",)),
        (None, {"chat_template": "dialogpt"}, ()),
    ],
)
def test_a_transcript_and_no_other_form_ends_at_the_users_next_turn(
    template: str | None, options: dict, stops: tuple
):
    assert prompter(template).stops(GenerationOptions(**options)) == stops


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("plain", "User: hi\nAssistant: yo\nUser: bye\nAssistant:"),
        ("dialogpt", "hi</s>yo</s>bye</s>"),
        ("{% for m in messages %}{{ m.role[0] }}={{ m.content }};{% endfor %}", "u=hi;a=yo;u=bye;"),
    ],
)
def test_the_option_wins_over_the_tokenizers_template(template: str, expected: str):
    assert read(prompter(), *said("hi", "yo", "bye"), chat_template=template) == expected


@pytest.mark.parametrize("template", ["{% for message in", "{{ messages | nothing }}", "dialog-gpt", "{{"])
def test_an_option_that_is_no_template_is_refused_with_those_that_have_a_name(template: str):
    with pytest.raises(ConfigurationError, match=r"'chat_template'.*dialogpt, plain"):
        read(prompter(), *said("hi"), chat_template=template)


@pytest.mark.parametrize(
    ("given", "meant"),
    [("dialog-gpt", "dialogpt"), ("LLama2", "llama2"), ("chatml_starchart", "chatml_starchat")],
)
def test_a_name_that_is_none_is_answered_by_the_nearest(given: str, meant: str):
    with pytest.raises(ConfigurationError, match=f"did you mean '{meant}'\\?"):
        read(prompter(), *said("hi"), chat_template=given)


@pytest.mark.parametrize(
    "template", ["{{ messages[9].content }}", "{{ 1 + messages }}", "{{ raise_exception('no') }}"]
)
def test_a_template_that_fails_on_a_conversation_is_an_error_of_that_prompt(template: str):
    with pytest.raises(PromptError, match="chat template refuses this conversation"):
        read(prompter(template), *said("hi"))


def test_a_template_that_writes_nothing_is_an_error_of_that_prompt():
    with pytest.raises(PromptError, match="writes nothing for this conversation"):
        read(prompter("{# nothing #}"), *said("hi"))


def test_half_a_surrogate_pair_is_replaced_for_no_tokenizer_takes_it():
    assert "cut emoji ?" in read(prompter(), *said("cut emoji \ud83d"), system_prompt="\udc00")


def test_several_texts_of_a_message_are_a_line_each():
    assert read(prompter("{{ messages[0].content }}"), Message("user", ("one", "two"))) == "one\ntwo"


# Roles


def test_neighbours_of_one_role_are_one_message():
    chat = [
        Message(role, (text,))
        for role, text in zip(["user"] * 2 + ["assistant"] * 2 + ["user"], "abcde", strict=True)
    ]
    assert read(prompter(ALTERNATING), *chat) == "[user]a\nb[assistant]c\nd[user]e[assistant]"


@pytest.mark.parametrize("template", [REFUSING, IGNORING])
def test_a_system_prompt_that_the_template_does_not_take_moves_into_the_first_user_turn(template: str):
    prompt = read(prompter(template), *said("hi", "yo", "bye", system="Be brief."))
    assert prompt == "[user]Be brief.\nhi[assistant]yo[user]bye[assistant]"


@pytest.mark.parametrize("template", [REFUSING, IGNORING])
def test_a_system_message_in_the_middle_is_read_too(template: str):
    chat = [*said("hi", "yo"), Message("system", ("Be brief.",)), *said("bye")]
    assert read(prompter(template), *chat) == "[user]hi[assistant]yo[user]Be brief.\nbye[assistant]"


@pytest.mark.parametrize("template", [REFUSING, IGNORING])
def test_an_empty_system_message_costs_nothing(template: str):
    assert read(prompter(template), *said("hi", system=" ")).endswith("hi[assistant]")


def test_a_template_that_takes_a_system_prompt_gets_it_as_one():
    assert (
        read(prompter(), *said("hi", system="Be brief.")) == "<s>[system]Be brief.</s>[user]hi</s>[assistant]"
    )


def test_the_system_prompt_of_the_options_opens_the_conversation():
    prompt = read(prompter(), *said("hi"), system_prompt="Be brief.")
    assert prompt == "<s>[system]Be brief.</s>[user]hi</s>[assistant]"


def test_a_conversation_with_a_system_prompt_of_its_own_keeps_that_alone():
    prompt = read(prompter(), *said("hi", system="Be kind."), system_prompt="Be brief.")
    assert prompt == "<s>[system]Be kind.</s>[user]hi</s>[assistant]"


# The beginning-of-text token


@pytest.mark.parametrize(
    ("template", "tokenizer", "expected"),
    [
        (WITH_BOS, "", "<s>[user]hi[assistant]"),
        (WITH_BOS, "<s>", "<s>[user]hi[assistant]"),
        (WITH_BOS + "{# twice #}", "<s>", "<s>[user]hi[assistant]"),
        ("{{ bos_token }}" + WITH_BOS, "<s>", "<s>[user]hi[assistant]"),
        (None, "<s>", "<s>User: hi\nAssistant:"),
        (None, "", "User: hi\nAssistant:"),
    ],
)
def test_the_prompt_begins_with_one_bos_token_at_most(template: str | None, tokenizer: str, expected: str):
    assert read(prompter(template, before=tokenizer), *said("hi")) == expected


def test_an_option_that_writes_the_bos_token_and_a_tokenizer_that_adds_it_make_one():
    prompt = read(prompter(None, before="<s>"), *said("hi"), chat_template=WITH_BOS)
    assert prompt == "<s>[user]hi[assistant]"


# What is not text


def test_images_are_left_out_with_a_warning(caplog: pytest.LogCaptureFixture):
    image = Message("user", ("What is it?", Image("http://example.com/secret.png")))
    with caplog.at_level(logging.WARNING):
        assert read(prompter(ALTERNATING), image) == "[user]What is it?[assistant]"
    assert "images are left out" in caplog.text
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    "chat",
    [
        [],
        [Message("user", ())],
        [Message("user", (" \n",))],
        [Message("user", (Image("http://example.com/cat.png"),))],
        [*said("hi", "yo"), Message("system", ("Be brief.",))],
    ],
)
def test_a_turn_that_asks_nothing_in_words_is_refused(chat: list[Message]):
    with pytest.raises(PromptError, match=r"asks nothing in words.* add a question"):
        read(prompter(), *chat)


# The window

QUESTION, ANSWER = "q" * 10, "a" * 10


def chat_of(turns: int) -> tuple[Message, ...]:
    """A conversation whose questions and answers are 10 tokens each, and the last question "open"."""
    return said(*[QUESTION, ANSWER] * turns, "open")


def test_a_conversation_that_fits_is_read_whole():
    writer = prompter(
        IGNORING, window=len("[user][assistant]" + 20 * "x") * 3 + len("[user]open[assistant]") + 8
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
    writer = prompter(IGNORING, window=len(shortest) + 8)
    assert read(writer, *chat, max_new_tokens=8) == shortest


@pytest.mark.parametrize("template", [tiny.CHAT_TEMPLATE, REFUSING])
def test_the_system_prompt_and_the_open_question_are_kept(template: str):
    prompt = read(prompter(template, window=64), *chat_of(9), system_prompt="Be brief.", max_new_tokens=8)
    assert "Be brief." in prompt
    assert "open" in prompt
    assert prompt.count(QUESTION) == prompt.count(ANSWER) < 9


def test_the_open_question_is_all_that_follows_the_last_answer():
    system = Message("system", ("Be brief.",))
    chat = [*said("old" * 9, "answer", "my name is Ann"), system, *said("who am I?")]
    shortest = "[user]my name is Ann\nBe brief.\nwho am I?[assistant]"
    assert read(prompter(IGNORING, window=len(shortest) + 1), *chat) == shortest
    with pytest.raises(PromptError, match="this turn alone"):
        read(prompter(IGNORING, window=len(shortest)), *chat)


def test_an_answer_has_half_of_the_window_at_most_kept_for_it():
    writer = prompter(IGNORING, window=120)
    prompt = read(writer, *chat_of(9), max_new_tokens=10_000)
    assert prompt.count(QUESTION) == 1
    assert len(prompt) <= 60


def test_a_long_open_question_may_take_what_is_left_of_the_window():
    writer = prompter(IGNORING, window=100)
    ids = writer.encode(said("x" * 82), GenerationOptions(max_new_tokens=50))
    assert len(ids) == 99
    assert writer.answer_limit(len(ids), GenerationOptions(max_new_tokens=50)) == 1


def test_a_turn_that_cannot_fit_is_refused_with_both_lengths():
    with pytest.raises(
        PromptError, match="this turn alone is 100 tokens long and the model's window is 100 tokens"
    ):
        read(prompter(IGNORING, window=100), *chat_of(3)[:-1], *said("x" * 83))


def test_overflow_may_be_an_error_instead():
    with pytest.raises(
        PromptError, match=r'the conversation is 354 tokens long .* 100 .* overflow to "drop_oldest"'
    ):
        read(prompter(IGNORING, window=100), *chat_of(9), overflow="error")


def test_overflow_as_an_error_leaves_a_conversation_that_fits_alone():
    prompt = read(prompter(IGNORING, window=100), *chat_of(2), overflow="error", max_new_tokens=90)
    assert prompt.count(QUESTION) == 2


def test_a_model_without_a_bound_reads_everything():
    writer = prompter()
    assert read(writer, *chat_of(200)).count(QUESTION) == 200
    assert writer.answer_limit(10**6, GenerationOptions(max_new_tokens=10**6)) == 10**6


def test_the_prompt_of_an_encoder_has_the_window_to_itself():
    writer = prompter(None, "bart", window=20)
    assert len(writer.encode(said("x" * 20), GenerationOptions(max_new_tokens=99))) == 20
    assert writer.answer_limit(20, GenerationOptions(max_new_tokens=99)) == 20
    with pytest.raises(PromptError, match="21 tokens long"):
        writer.encode(said("x" * 21), GenerationOptions())


TEXT = st.text("ab ö日", min_size=1, max_size=30)
HISTORY = st.lists(
    st.builds(Message, st.sampled_from(["system", "user", "assistant"]), st.tuples(TEXT)), max_size=8
)


@given(
    template=st.sampled_from([tiny.CHAT_TEMPLATE, REFUSING, IGNORING, None]),
    architecture=st.sampled_from(["llama", "t5"]),
    window=st.integers(2, 160),
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
    template, architecture, window, history, question, options
):
    writer = prompter(template, architecture, window)
    try:
        ids = writer.encode([*history, *said(question)], options)
    except PromptError:
        return
    limit = writer.answer_limit(len(ids), options)
    assert 1 <= limit <= options.max_new_tokens
    assert max(len(ids), limit) <= window if writer.seq2seq else len(ids) + limit <= window
    prompt = writer.tokenizer.decode(ids)
    assert question in prompt
    system = [message.text for message in history if message.role == "system"] or [
        options.system_prompt or ""
    ]
    assert all(text.strip() in prompt for text in system)


@given(
    template=st.sampled_from([tiny.CHAT_TEMPLATE, REFUSING, IGNORING]),
    window=st.integers(30, 160),
    turns=st.integers(0, 6),
    system=st.none() | TEXT,
    question=TEXT.filter(str.strip),
)
def test_a_conversation_is_refused_only_where_its_open_question_alone_would_be(
    template, window, turns, system, question
):
    writer, options = prompter(template, window=window), GenerationOptions(system_prompt=system)
    alone = len(prompter(template).encode(said(question), options))
    chat = [*said(*[QUESTION, ANSWER] * turns), *said(question)]
    if alone < window:
        assert len(writer.encode(chat, options)) >= alone
    else:
        with pytest.raises(PromptError, match=f"this turn alone is {alone} tokens long .* {window} tokens"):
            writer.encode(chat, options)
