"""What a loaded model does from Python: score, rank, encode, and answer by any of its names."""

import re
from pathlib import Path

import numpy as np
import pytest

import models
from adapters.hugging import HuggingAdapter
from engine.errors import AdapterError, ConfigurationError, LoadError, PromptError, Unsupported

JAPAN = [{"role": "user", "content": "What is the capital of Japan?"}]
CITIES = ["The capital of Japan is Oslo.", "The capital of Japan is Tokyo.", "The capital of Japan is Rome."]


@pytest.fixture(scope="module")
def model():
    return models.load("tiny_talk", {"model_deploys": ["Talk-Small"], "max_new_tokens": 24})


def test_a_text_is_continued_and_a_conversation_is_answered(model):
    plain, chat = model.generate(["The capital of Japan", JAPAN])
    assert plain.text.startswith(" is")
    assert chat.text == "The capital of Japan is Tokyo."


def test_one_prompt_that_fails_costs_no_other_its_answer(model):
    bad, good = model.generate(["word " * 3000, JAPAN])
    assert isinstance(bad.error, PromptError)
    assert good.text == "The capital of Japan is Tokyo."


def test_several_answers_are_for_prompt_items_and_for_the_calls_that_return_them(model):
    with pytest.raises(ConfigurationError, match="n: each prompt has one answer here; call chat"):
        model.generate([JAPAN], n=2, temperature=1)
    ranking = HuggingAdapter({"model_name": "m", "n": 4, "temperature": 1})
    assert ranking.call_options({})[0].n == 1


def test_an_error_is_raised_where_that_is_asked_for(model):
    with pytest.raises(PromptError, match="context length"):
        model.generate([JAPAN, "word " * 3000], raise_errors=True)


def test_one_prompt_need_not_be_in_a_list(model):
    ids = model.engine.tokenizer("The capital of Japan")["input_ids"]
    for prompt in ("The capital of Japan", JAPAN, ids):
        assert model.generate(prompt) == model.generate([prompt])
        assert len(model.generate(prompt)) == 1
    assert model.generate([ids, ids])[1].text == model.generate("The capital of Japan")[0].text


def test_token_ids_end_an_answer_and_are_no_part_of_it(model):
    [answer] = model.generate([JAPAN])
    third, bias = answer.token_ids[3], {answer.token_ids[0]: -100}
    [ended] = model.generate([JAPAN], eos_token_id=third)
    assert ended.token_ids == answer.token_ids[:4]
    assert ended.finish_reason == "stop"
    assert answer.text.startswith(ended.text)
    assert len(ended.text) < len(model.engine.tokenizer.decode(answer.token_ids[:4]))
    assert model.generate([JAPAN], logit_bias=bias)[0].token_ids[0] != answer.token_ids[0]


@pytest.mark.parametrize("option", [{"eos_token_id": 10**6}, {"logit_bias": {10**6: 1}}], ids=str)
def test_a_token_id_outside_the_vocabulary_is_refused(model, option: dict):
    [answer] = model.generate([JAPAN], **option)
    assert "token ids outside the vocabulary" in str(answer.error)


def test_candidates_are_ranked_by_their_probability(model):
    ranked = model.rank(JAPAN, CITIES)
    assert ranked[0][0] == CITIES[1]
    assert [probability for _, probability in ranked] == sorted((p for _, p in ranked), reverse=True)
    assert sum(probability for _, probability in ranked) == pytest.approx(1)


def test_scores_are_the_engines(model):
    prompt, candidates = "The capital of Japan is", [" Tokyo", " Oslo"]
    assert [model.score(prompt, candidates)] == model.engine.score([prompt], [candidates])
    one, other = model.score([prompt, "A"], candidates)
    assert one.candidates[0].total == pytest.approx(
        model.score(prompt, candidates).candidates[0].total, abs=1e-4
    )
    assert other != one


def test_pairs_are_scored_each_with_its_candidate(model):
    pairs = [("The capital of Japan is", " Tokyo"), (JAPAN, CITIES[1])]
    for (prompt, candidate), scores in zip(pairs, model.score(pairs), strict=True):
        [alone] = model.score([prompt], [candidate])
        assert scores.candidates[0].total == pytest.approx(alone.candidates[0].total, abs=1e-4)


def test_without_candidates_the_whole_vocabulary_is_scored(model):
    logits = model.score(["The capital", "of"])
    assert logits.shape == (2, model.engine.loaded.model.config.vocab_size)
    assert logits.dtype == np.float32


def test_texts_become_vectors(model):
    vectors = model.encode(["Good morning!", "Hello"], normalize=True)
    assert (vectors.shape, vectors.dtype) == ((2, 128), np.float32)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_hidden_states_are_reduced_or_left(model, reduction: str):
    [states] = model.hidden_states(["Good morning!"], layer=1, reduction=None)
    reduced = getattr(states, reduction)(axis=0)
    assert model.hidden_states(["Good morning!"], layer=1, reduction=reduction)[0] == pytest.approx(
        reduced, abs=1e-4
    )


@pytest.mark.parametrize("name", ["tiny_talk", "TINY_TALK", "talk-small", "Talk-Small"])
def test_a_public_name_is_found_whatever_its_capitals(model, name: str):
    assert model.chat(JAPAN, model=name).model == name


def test_a_name_that_is_not_the_models_is_refused_with_those_that_are(model):
    with pytest.raises(ConfigurationError, match=r"not called 'gpt-4'.*tiny_talk, Talk-Small"):
        model.chat(JAPAN, model="gpt-4")


def test_a_model_is_loaded_by_any_of_its_public_names(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(models.find("gpt2"), "model_deploys", ("GPT-Small", "gpt2-124m"))
    assert models.resolve_name("gpt-SMALL") == models.resolve_name("GPT2-124M") == "gpt2"
    with pytest.raises(ConfigurationError, match="there is no model 'gpt-large'"):
        models.resolve_name("gpt-large")


def test_an_option_of_a_call_is_for_that_call_alone(model):
    assert model.generate([JAPAN], max_tokens=2)[0].finish_reason == "length"
    assert model.generate([JAPAN])[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda model: model.score("a", [" b"], system_promt="x"), "did you mean 'system_prompt'"),
        (lambda model: model.score("a", [" b"], temprature=3), "known options: chat_template, .*"),
        (lambda model: model.score("a", [" b"], temperature=3), "'temperature' changes no score"),
        (lambda model: model.rank("a", [" b"], foo=1), "unknown option 'foo'"),
        (lambda model: model.rank(JAPAN, CITIES, seed=1), "'seed' changes no score"),
        (lambda model: model.score(["a"], foo=1), "unknown option 'foo'"),
        (lambda model: model.score([("a", " b")], foo=1), "unknown option 'foo'"),
        (lambda model: model.score("a", [" b"], hidden_state=True), r"hidden_states\(texts\)"),
        (lambda model: model.score("a", [" b"], system_prompt="x"), "'system_prompt' is for conversations"),
        (lambda model: model.generate("a", system_prompt="x"), "'system_prompt' is for conversations"),
        (lambda model: model.text_completion("a", prompt_builder="llama2"), "'prompt_builder' is for conv"),
        (lambda model: model.generate("a", hidden_state=True), r"hidden_states\(texts\)"),
        (lambda model: model.generate("a", dtype="float16"), "'dtype': it is not an option of this call"),
        (lambda model: model.encode(["a"], temperature=1), "'temperature': it is not an option of this call"),
        (lambda model: model.encode(["a"], dimensions=129), "more than the 128 numbers"),
        (
            lambda model: model.hidden_states(["a"], reduction="avg"),
            "no reduction 'avg': use mean, sum or None",
        ),
        (
            lambda model: model.embeddings("a", encoding_format="base64"),
            "encoding_format 'base64' is for HTTP",
        ),
        (lambda model: model.predict([], stream=True), "'stream': it is not an option of this call"),
        (lambda model: model.generate("a", stream=True), r"stream: .* call chat or text_completion"),
        (lambda model: model.generate("a", num_return_sequences=2), "n is the number of .* chat"),
        (lambda model: model.generate("a", batch_size=4), "batch_size: .* is batched"),
        (lambda model: models.load("tiny_talk", {"chat_template": "llama3"}), "did you mean 'llama2'"),
        (
            lambda model: models.load("tiny_talk", {"chat_template": "{% if %}"}),
            "is not a valid Jinja template",
        ),
        (
            lambda model: models.evaluate([], model=model, configuration={"seed": 1}),
            "a loaded model has its own",
        ),
    ],
)
def test_nothing_that_is_given_is_ignored(model, call, says: str):
    with pytest.raises(AdapterError, match=says):
        call(model)


@pytest.mark.parametrize("call", ["encode", "hidden_states"])
def test_one_text_is_no_list_of_letters(model, call: str):
    for texts in ("Hello", None):
        with pytest.raises(PromptError, match="a list of texts is needed"):
            getattr(model, call)(texts)
    with pytest.raises(PromptError, match="text 1 is None: give a text"):
        getattr(model, call)(["Hello", None])


@pytest.mark.parametrize("given", [None, 5, [None], ["a", 5], JAPAN[0], [JAPAN[0], "a"], {1: 2}], ids=str)
def test_what_is_no_prompt_is_refused(model, given):
    for call in (
        lambda: model.generate(given),
        lambda: model.score(given, [" b"]),
        lambda: model.rank(given, [" b"]),
        lambda: model.chat(given),
        lambda: model.text_completion(given),
    ):
        with pytest.raises(PromptError):
            call()


def test_an_embedding_is_shortened_to_its_first_numbers(model):
    whole, short = model.encode(["Hello"]), model.encode(["Hello"], dimensions=8)
    np.testing.assert_array_equal(short, whole[:, :8])
    unit = model.encode(["Hello"], truncate_dim=8, normalize=True)
    np.testing.assert_allclose(unit, short / np.linalg.norm(short), rtol=1e-5)
    assert len(model.embeddings("Hello", dimensions=8, encoding_format="float").data[0].embedding) == 8


def test_a_model_says_what_it_is_and_where_it_runs(model):
    assert re.fullmatch(r"<tiny_talk: LlamaForCausalLM \S+, \w+, on cpu>", repr(model))
    assert repr(HuggingAdapter({"model_name": "a/b"})) == "<hugging: not loaded>"
    server = {"backend": "endpoint", "base_url": "http://user:secret@localhost:1/v1", "model_name": "m"}
    assert re.fullmatch(r"<hugging: m at http://\S*localhost:1\S*>", repr(HuggingAdapter(server).load()))
    assert "secret" not in repr(HuggingAdapter(server).load())


def test_a_tokenizer_may_be_an_object(model):
    tokenizer = model.engine.tokenizer
    other = models.load("tiny_talk", {"tokenizer": tokenizer, "max_new_tokens": 24})
    assert other.engine.tokenizer is tokenizer
    assert other.generate(JAPAN)[0].text == "The capital of Japan is Tokyo."


@pytest.mark.parametrize("batch", [{"prompts": {}}, "item.json", Path("item.json"), None], ids=str)
def test_one_item_is_no_list_of_items(model, batch):
    with pytest.raises(PromptError, match=r"a list of items is needed: \[item\]"):
        model.predict(batch)


@pytest.mark.parametrize(
    "call",
    [
        lambda model: model.score(["a", "b"], [[" c", " d"]]),
        lambda model: model.score(["a", "b"], [[" c"], [" d"]]),
        lambda model: model.rank("a", [[" c", " d"]]),
    ],
)
def test_candidates_of_all_prompts_are_one_list(model, call):
    with pytest.raises(PromptError, match=r"^candidates is one list of texts for all prompts"):
        call(model)


def test_several_prompts_are_not_ranked_as_one(model):
    for prompts in (["a", "b"], [JAPAN, JAPAN], []):
        with pytest.raises(PromptError, match="rank takes one prompt"):
            model.rank(prompts, [" c"])


def test_a_model_that_writes_text_is_no_classifier(model):
    with pytest.raises(Unsupported, match=r"tiny_talk has no classification head: generate\(.*labels="):
        model.classify(["A sunny day."])
    answers = model.generate(["A sunny day."], labels=["good", "bad"])
    assert sum(answers[0].labels.values()) == pytest.approx(1)


def test_a_conversation_without_a_message_says_so(model):
    with pytest.raises(PromptError, match="there is no message"):
        model.chat([])


def test_a_hub_id_or_a_folder_is_a_model(tiny_model):
    model = models.load(str(tiny_model), {"max_new_tokens": 2})
    assert (model.name, model.weights_name) == ("auto_causal_lm", str(tiny_model))
    with pytest.raises(LoadError, match="no such folder"):
        models.load("/nope/nope")
    with pytest.raises(ConfigurationError, match=r"or take auto_causal_lm with the model_name 'owner/name'$"):
        models.find("owner/name")


def test_a_model_that_is_not_loaded_says_so():
    with pytest.raises(ConfigurationError, match="call load"):
        HuggingAdapter({"model_name": "a/b"}).chat(JAPAN)
