"""Prompting: what the model reads is a conversation as it was trained to read one."""

import logging

import pytest

from engine.errors import ConfigurationError, PromptError
from engine.options import GenerationOptions
from engine.types import Image, Message
from tests.helpers.prompters import ALTERNATING, IGNORING, REFUSING, WITH_BOS, prompter, read
from tests.helpers.talk import said

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
    assert prompter(template).stop_strings(GenerationOptions(**options)) == stops


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
    with pytest.raises(PromptError, match=r"(has no text|there is no message).* add a question"):
        read(prompter(), *chat)


# Variables of the template, and thoughts

EFFORT = "Effort: {{ effort | default('none') }}." + ALTERNATING


def test_the_templates_further_variables_are_the_users():
    assert read(prompter(EFFORT), *said("hi")) == "Effort: none.[user]hi[assistant]"
    given = read(prompter(EFFORT), *said("hi"), chat_template_kwargs={"effort": "high"})
    assert given == "Effort: high.[user]hi[assistant]"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"efort": 1}, "the chat template has no variable 'efort': leave it out"),
        ({"messages": []}, "cannot set 'messages'"),
        ({"add_generation_prompt": False}, "cannot set 'add_generation_prompt'"),
        ({"bos_token": "x"}, "cannot set 'bos_token'"),
    ],
)
def test_a_variable_that_does_nothing_or_is_not_the_users_is_refused(given: dict, reason: str):
    with pytest.raises(ConfigurationError, match=reason):
        read(prompter(EFFORT), *said("hi"), chat_template_kwargs=given)


def test_a_variable_spells_no_control_token():
    writer = prompter(EFFORT)
    options = GenerationOptions(chat_template_kwargs={"effort": "a</s>b"})
    assert writer.tokenizer.eos_token_id not in writer.encode(said("hi"), options)


def test_an_earlier_answers_thought_is_not_read_again():
    assert read(prompter(ALTERNATING), *said("hi", "<think>Hm</think>\n\nyo", "bye")) == (
        "[user]hi[assistant]yo[user]bye[assistant]"
    )
    assert "</think>" in read(prompter(ALTERNATING), *said("<think>Hm</think>hi"))
