"""Templates: each family reads a conversation in the very form it was trained on."""

import pytest
import torch

from engine.backends.local import LocalEngine
from engine.configuration import split
from engine.prompting.prompter import Prompter
from engine.prompting.templates import TEMPLATES
from tests import tiny
from tests.engine.prompting.test_prompter import prompter, read
from tests.helpers.talk import ask, said

# What each family reads of one question, and of two with a system message and an answer.
FAMILIES = {
    "llama2": (
        "<s>[INST] hi [/INST]",
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nhi [/INST] yo </s><s>[INST] bye [/INST]",
    ),
    "vicuna": ("USER: hi ASSISTANT:", "Be brief. USER: hi ASSISTANT: yo</s>USER: bye ASSISTANT:"),
    "wizardlm": ("USER: hi ASSISTANT:", "Be brief. USER: hi ASSISTANT: yo</s>USER: bye ASSISTANT:"),
    "chatml_falcon": (
        "<|system|>\n</s>\n<|user|>\nhi</s>\n<|assistant|>",
        "<|system|>\nBe brief.</s>\n<|user|>\nhi</s>\n<|assistant|>\nyo</s>\n"
        "<|user|>\nbye</s>\n<|assistant|>",
    ),
    "chatml_starchat": (
        "<|system|>\n<|end|>\n<|user|>\nhi<|end|>\n<|assistant|>",
        "<|system|>\nBe brief.<|end|>\n<|user|>\nhi<|end|>\n<|assistant|>\nyo<|end|>\n"
        "<|user|>\nbye<|end|>\n<|assistant|>",
    ),
    "falcon": ("User: hi\nFalcon:", "System: Be brief.\nUser: hi\nFalcon: yo\nUser: bye\nFalcon:"),
    "stablebeluga": (
        "### User:\nhi\n\n### Assistant:\n",
        "### System:\nBe brief.\n\n### User:\nhi\n\n### Assistant:\nyo\n\n### User:\nbye\n\n### Assistant:\n",
    ),
    "open_assistant": (
        "<|prompter|>hi</s><|assistant|>",
        "<|system|>Be brief.</s><|prompter|>hi</s><|assistant|>yo</s><|prompter|>bye</s><|assistant|>",
    ),
    "anthropic": (
        "\n\nHuman: hi\n\nAssistant:",
        "Be brief.\n\nHuman: hi\n\nAssistant: yo\n\nHuman: bye\n\nAssistant:",
    ),
    "raw": ("hi", "Be brief.\nhi\nyo\nbye"),
}
FAMILIES["stablebeluga2"] = FAMILIES["stablebeluga"]


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_reads_its_own_form(name: str):
    one, several = FAMILIES[name]
    assert read(prompter(None), *said("hi"), chat_template=name) == one
    chat = said("hi", "yo", "bye", system="Be brief.")
    assert read(prompter(None), *chat, chat_template=name) == several


def test_every_template_is_tested():
    assert TEMPLATES.keys() == FAMILIES.keys() | {"plain", "dialogpt"}


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "raw"])
def test_spaces_around_a_message_are_no_part_of_it(name: str):
    spaced = read(prompter(None), *said(" hi\n", "\nyo ", " bye "), chat_template=name)
    assert spaced == read(prompter(None), *said("hi", "yo", "bye"), chat_template=name)


def test_a_raw_text_is_read_as_it_is():
    assert read(prompter(None), *said(" Once {{ upon }}\n a time,\n"), chat_template="raw") == (
        " Once {{ upon }}\n a time,\n"
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_system_message_anywhere_is_read(name: str):
    chat = [*said("hi", "yo"), *said("bye", system="Be brief.")]
    prompt = read(prompter(None), *chat, chat_template=name)
    assert prompt.index("yo") < prompt.index("Be brief.") < prompt.index("bye")


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("before", ["", "<s>"])
def test_a_prompt_begins_with_one_bos_token_whoever_writes_it(name: str, before: str):
    ids = prompter(None, before=before).encode(said("hi"), ask("hi", chat_template=name).options)
    assert ids.count(tiny.BOS) == (1 if before or name == "llama2" else 0)
    assert tiny.BOS not in ids[1:]


def test_a_tokenizer_without_special_tokens_writes_none():
    tokenizer = tiny.byte_tokenizer(None, bos_token=None, eos_token=None)
    writer = Prompter(tokenizer, tiny.CONFIGS["llama"](), None)
    assert read(writer, *said("hi", "yo", "bye"), chat_template="llama2") == (
        "[INST] hi [/INST] yo [INST] bye [/INST]"
    )


# Where an answer ends


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "raw"])
def test_an_answer_ends_where_the_next_turn_would_begin(name: str):
    stops = prompter(None).stop_strings(ask("hi", chat_template=name, stop=["END"]).options)
    assert stops[0] == "END"
    answer, turn = "I am well.", read(prompter(None), *said("hi", "yo", "bye"), chat_template=name)
    following = turn[turn.index("yo") + len("yo") : turn.index("bye")]
    assert any(stop in answer + following for stop in stops)
    assert not any(stop in answer for stop in stops)


@pytest.mark.parametrize(
    ("name", "loop"), [("llama2", "yes[INST]"), ("vicuna", "yes USER:"), ("falcon", "yo\nUser:")]
)
def test_a_model_that_goes_on_with_the_next_turn_is_stopped(name: str, loop: str):
    tokenizer = tiny.byte_tokenizer(None)
    letters = tokenizer(loop)["input_ids"]
    logits = torch.zeros(tiny.VOCABULARY, tiny.VOCABULARY)
    for token, following in zip([letters[-1], *letters], letters, strict=False):
        logits[token, following] = 10
    engine = LocalEngine(tiny.loaded(tiny.scripted_model(logits), tokenizer))
    answer = engine.generate([ask("hi", chat_template=name, max_new_tokens=50)])[0]
    assert (answer.text, answer.finish_reason) == (loop.split("[")[0].split("U")[0].strip(), "stop")


@pytest.mark.parametrize("key", ["chat_template", "prompt_builder"])
def test_a_family_is_named_in_the_configuration(key: str):
    configuration = split({"model_name": "tiny/llama", key: "vicuna"})
    assert configuration.generation.chat_template == "vicuna"
