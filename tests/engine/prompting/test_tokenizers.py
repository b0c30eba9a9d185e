"""Whatever a tokenizer has or adds, each way into the engine reads a text alike, and answers end."""

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from engine.backends.local import LocalEngine
from engine.errors import PromptError
from engine.options import GenerationOptions
from engine.types import Answer, Request
from tests import tiny
from tests.helpers.talk import ask, said
from tests.helpers.tiny_tokenizers import KINDS, byte_level, in_python, made, prepending

NAMELESS = {"bos_token": None, "eos_token": None}
HALF = "half a pair \ud800"


def engine(tokenizer, architecture: str = "llama", **changes) -> LocalEngine:
    size = max(tiny.VOCABULARY, len(tokenizer))
    settings = {"vocab_size": size, "bos_token_id": 1, "eos_token_id": 2} | changes
    return LocalEngine(tiny.loaded(tiny.random_model(architecture, **settings), tokenizer))


def plain(text: str | tuple[int, ...], **options) -> Request:
    return Request((), GenerationOptions(**{"max_new_tokens": 4} | options), text)


# Neither a beginning nor an end


@pytest.fixture(scope="module")
def nameless() -> LocalEngine:
    return engine(made(byte_level, **NAMELESS), bos_token_id=None, eos_token_id=None, pad_token_id=None)


def test_a_model_without_beginning_or_end_answers_texts_and_conversations(nameless: LocalEngine):
    assert nameless.eos == frozenset()
    for answer in nameless.generate([plain("it is"), ask("it is", max_new_tokens=4)]):
        assert (answer.error, len(answer.token_ids)) == (None, 4)
    assert nameless.score(["it is"], [[" true", " a"]])[0].error is None
    assert nameless.next_logits(["it is"]).shape[0] == 1
    assert nameless.embed(["it is", ""]).shape[0] == 2


def test_an_empty_text_that_nothing_begins_costs_no_other_its_answer(nameless: LocalEngine):
    empty, fine = nameless.generate([plain(""), plain("it is")])
    assert isinstance(empty.error, PromptError)
    assert "the prompt is empty" in str(empty.error)
    assert fine.error is None
    failed, scored = nameless.score(["", "it is"], [["a"], ["a"]])
    assert "the prompt is empty" in str(failed.error)
    assert scored.error is None


# What a tokenizer puts around a text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["$A </s>", "<s> $A </s>"])
def test_a_tokenizer_that_ends_each_text_ends_no_prompt_and_no_candidate(kind, form: str):
    ending, other = engine(made(kind, form)), engine(made(kind, form.removesuffix(" </s>")))
    requests = [plain("it is true"), ask("it is true", max_new_tokens=4)]
    for one, same in zip(ending.generate(requests), other.generate(requests), strict=True):
        assert one.token_ids == same.token_ids
    for prompt in ("it is", "it is ", "", ask("it is")):
        one, same = (which.score([prompt], [[" true", " a fact"]])[0] for which in (ending, other))
        assert [c.token_ids for c in one.candidates] == [c.token_ids for c in same.candidates]
        assert [c.total for c in one.candidates] == pytest.approx([c.total for c in same.candidates])
        assert all(2 not in candidate.token_ids for candidate in one.candidates)
    assert (ending.next_logits(["it is"]) == other.next_logits(["it is"])).all()


def test_a_tokenizer_in_python_that_ends_each_text_does_not_end_a_prompt():
    ending = engine(in_python(), vocab_size=300, eos_token_id=1)
    assert (
        ending.conversion.encode(plain("it is")).prompt
        == ending.tokenizer("it is", add_special_tokens=False)["input_ids"]
    )
    assert ending.generate([plain("it is"), ask("it is", max_new_tokens=4)])[1].error is None


def test_an_encoders_text_ends_as_its_tokenizer_ends_it():
    source = engine(made(byte_level, "$A </s>"), "t5").conversion.encode(plain("it is")).prompt
    assert source[-1] == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_with_its_beginning_is_the_conversation_that_it_was_rendered_from(kind):
    tokenizer = made(kind, "<s> $A </s>")
    tokenizer.chat_template = tiny.CHAT_TEMPLATE
    writer = engine(tokenizer)
    chat = [{"role": "user", "content": "it is"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    asked, given = writer.conversion.encode(ask("it is")), writer.conversion.encode(plain(text))
    assert asked.prompt == given.prompt
    assert asked.prompt.count(1) == 1
    assert writer.token_ids([text])[0].count(1) == 1
    [one, other] = writer.score([ask("it is"), text], [[" true"]] * 2)
    assert one.candidates[0].total == pytest.approx(other.candidates[0].total)


# Halves of surrogate pairs


def test_half_a_surrogate_pair_is_read_as_a_question_mark_by_every_way_in():
    writer = engine(made(byte_level))
    marked = HALF.replace("\ud800", "?")
    pairs = [(HALF, "it is"), (marked, "it is")]
    half, mark = (
        writer.generate([plain(text) for text in texts] + [ask(text, max_new_tokens=4) for text in texts])
        for texts in pairs
    )
    assert [answer.token_ids for answer in half] == [answer.token_ids for answer in mark]
    for call in (
        lambda text: writer.embed([text, "it is"]),
        lambda text: writer.hidden_states([text, "it is"]),
        lambda text: writer.next_logits([text]),
        lambda text: [[c.total for c in writer.score([text], [[text, "a"]])[0].candidates]],
        lambda text: [writer.conversion.encode(ask("hi", system_prompt=text)).prompt],
        lambda text: [
            writer.conversion.encode(ask("hi", chat_template="{{ messages[0].content }}" + text)).prompt
        ],
    ):
        torch.testing.assert_close(torch.tensor(call(HALF)[0]), torch.tensor(call(marked)[0]))
    assert writer.generate([plain("it is", stop="\ud800")])[0].error is None


# Ends

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def speller(special: bool = True, **names) -> LocalEngine:
    """A model that answers OK, ends its turn, and would go on for ever after that."""
    tokenizer = tiny.byte_tokenizer(CHATML, **names)
    for name in ("<|im_start|>", "<|im_end|>"):
        tokenizer.add_tokens([name], special_tokens=special)
    line, o, k, n = (tokenizer(letter)["input_ids"][0] for letter in "\nOKn")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    logits = torch.zeros(len(tokenizer), len(tokenizer))
    for token, following in ((line, o), (o, k), (k, end), (end, n), (n, line)):
        logits[token, following] = 10
    return LocalEngine(tiny.loaded(tiny.scripted_model(logits), tokenizer))


def answer(engine: LocalEngine, **options) -> Answer:
    return engine.generate([ask("Hi", max_new_tokens=12, **options)])[0]


@pytest.mark.parametrize("special", [True, False])
def test_a_turn_ends_where_its_template_ends_it(special: bool):
    ended = answer(speller(special), logprobs=True)
    assert (ended.text, ended.finish_reason, len(ended.token_ids)) == ("OK", "stop", 3)
    assert [token.text for token in ended.tokens] == ["O", "K"]


def test_a_template_of_the_options_ends_its_turns_too():
    template = CHATML.replace("<|im_end|>", "</s>")
    assert answer(speller(), chat_template=template).finish_reason == "length"


def test_a_plain_text_does_not_end_at_the_templates_end():
    [gone_on] = speller().generate([plain("x\n", max_new_tokens=8)])
    assert (len(gone_on.token_ids), gone_on.finish_reason) == (8, "length")


def test_a_plain_text_ends_at_the_tokenizers_end_whatever_the_settings_name():
    writer = speller(eos_token="<|im_end|>")
    [ended] = writer.generate([plain("x\n", max_new_tokens=8)])
    assert (ended.text, ended.finish_reason) == ("OK", "stop")


@pytest.mark.parametrize("where", ["generation", "config"])
@pytest.mark.parametrize("several", [False, True])
def test_an_end_counts_wherever_it_is_named(where: str, several: bool):
    writer = speller()
    end = writer.tokenizer.convert_tokens_to_ids("<|im_end|>")
    model = writer.loaded.model
    settings = model.generation_config if where == "generation" else model.config
    settings.eos_token_id = [tiny.PAD, end] if several else end
    assert LocalEngine(writer.loaded).generate([plain("x\n")])[0].finish_reason == "stop"


@pytest.mark.parametrize(("named", "counts"), [(2, False), (9, True)])
def test_an_end_that_a_configurations_class_has_by_itself_may_be_any_word(named: int, counts: bool):
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made(byte_level).backend_tokenizer, bos_token="<unk>", eos_token="<s>"
    )
    # LlamaConfig has 2 where a checkpoint names none.
    model = tiny.random_model("llama", vocab_size=len(tokenizer), eos_token_id=named)
    model.generation_config.eos_token_id = 1
    assert LocalEngine(tiny.loaded(model, tokenizer)).eos == ({1, named} if counts else {1})


# Going on


def test_a_continued_text_keeps_its_leading_blank():
    tokenizer = made(prepending)
    ids = tokenizer(" true that")["input_ids"]
    last = tokenizer("it is")["input_ids"][-1]
    logits = torch.zeros(len(tokenizer), len(tokenizer))
    for token, following in zip([last, *ids[1:]], [*ids[1:], 2], strict=True):
        logits[token, following] = 10
    writer = LocalEngine(tiny.loaded(tiny.scripted_model(logits), tokenizer))
    asked = plain("it is", max_new_tokens=9, logprobs=True, top_logprobs=1)
    [going] = writer.generate([asked])
    assert tokenizer.decode(
        [*tokenizer("it is")["input_ids"], *going.token_ids], skip_special_tokens=True
    ) == ("it is" + going.text)
    assert going.text.startswith(" ")
    assert "".join(token.text for token in going.tokens) == going.text
    assert all(token.top[0][0] == token.text for token in going.tokens)
    assert "".join(chunk.text for chunk in writer.stream([asked])) == going.text
    [stopped] = writer.generate([plain("it is", max_new_tokens=9, stop=going.text[:3])])
    assert (stopped.text, stopped.finish_reason) == ("", "stop")


def test_a_prompt_of_token_ids_is_echoed_and_scored_as_it_is():
    writer = engine(made(byte_level, "<s> $A"))
    whole = tuple(writer.tokenizer("it is true", add_special_tokens=False)["input_ids"])
    letters = tuple(
        token
        for letter in "it is true"
        for token in writer.tokenizer(letter, add_special_tokens=False)["input_ids"]
    )
    assert len(letters) > len(whole)
    for ids in (whole, letters):
        echoed = writer.prompt_tokens(plain(ids))
        assert "".join(token.text for token in echoed) == "it is true"
        assert len(echoed) == len(ids)
        with torch.inference_mode():
            logits = writer.loaded.model(torch.tensor([[1, *ids[:-1]]])).logits[0].log_softmax(-1)
        assert [token.logprob for token in echoed] == pytest.approx(
            logits[range(len(ids)), ids].tolist(), abs=1e-4
        )
        assert writer.prompt_tokens(plain((1, *ids))) == echoed
    assert writer.prompt_tokens(plain("it is true")) == writer.prompt_tokens(plain(whole))


def test_said_and_given_alike_by_a_model_without_a_template():
    writer = engine(made(byte_level))
    assert writer.prompter.end_tokens(GenerationOptions()) == frozenset()
    assert writer.conversion.encode(Request(said("hi"), GenerationOptions())).options.stop == ("\nUser:",)
